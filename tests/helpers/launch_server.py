"""A process that imports torch once and forks the supervisor of each job of `launch_scenarios`."""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import HELPERS

SERVER = HELPERS / "launch_scenarios.py"


class Ended:
    def __init__(self, status: int, seconds: float, folder: Path) -> None:
        self.status = status
        self.seconds = seconds
        self.out = (folder / "out").read_text()
        self.err = (folder / "err").read_text().strip()


class Server:
    """Starts supervised jobs, and sees whether any of their processes is left."""

    def __init__(self, log: Path) -> None:
        self.log = log.open("w")
        self.mark = f"PLCOURSE_LAUNCH_TEST={uuid.uuid4()}"
        name, value = self.mark.split("=")
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, name: value},
        )
        self.started = 0.0
        self.pid = 0
        self.folder = Path()
        self.running = False

    def start(self, folder: Path, job: str, **options: Any) -> None:
        self.folder = folder
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"job": job, "folder": str(folder), **options}) + "\n")
        self.process.stdin.flush()
        self.pid = int(self.read())
        self.started = time.monotonic()
        self.running = True

    def read(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def wait(self) -> Ended:
        status = int(self.read())
        self.running = False
        return Ended(status, time.monotonic() - self.started, self.folder)

    def run(self, folder: Path, job: str, **options: Any) -> Ended:
        self.start(folder, job, **options)
        return self.wait()

    def run_and_signal(self, folder: Path, job: str, signum: int, n: int = 2, **options: Any) -> Ended:
        """Sends a signal to the supervisor of a job as soon as its n ranks are ready."""
        self.start(folder, job, **options)
        self.until_ready(n)
        os.kill(self.pid, signum)
        return self.wait()

    def notes(self, rank: int) -> list[str]:
        path = self.folder / f"rank{rank}"
        return path.read_text().splitlines() if path.exists() else []

    def until(self, met: Callable[[], bool], seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while not met():
            assert time.monotonic() < deadline, "it never came to that"
            time.sleep(0.01)

    def until_ready(self, n: int = 2) -> None:
        self.until(lambda: all("ready" in self.notes(rank) for rank in range(n)))

    def left(self) -> list[int]:
        """The processes of this server that still run; forks show the environment of their ancestor."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit() and int(folder.name) != self.process.pid:
                try:
                    if self.mark in (folder / "environ").read_text(errors="replace").split("\0"):
                        found.append(int(folder.name))
                except OSError:
                    continue
        return found
