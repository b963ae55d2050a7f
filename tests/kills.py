"""Runs that are killed again and again at random moments, and must end as if nothing had happened.

A command takes seconds to import torch. Here commands run in processes forked from one that has imported everything and
done nothing else, so that a start takes a fraction of a second and twenty kills are affordable.
"""

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support import TESTS, write_config

_FORKER = """
import json, os, sys, traceback
from plcourse.__main__ import main
import plcourse.api, plcourse.cli.course_cli, torch
for module in sys.argv[1:]:
    __import__(module)
print("ready", flush=True)
for line in sys.stdin:
    folder, out, err, environment, argv = json.loads(line)
    pid = os.fork()
    if pid == 0:
        os.chdir(folder)
        os.environ.clear(), os.environ.update(environment)
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        sys.stdin, sys.argv, status = None, ["plcourse", *argv], 1
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


_ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


class Forker:
    """Starts commands in forked processes; one at a time.

    Args:
        folder: where they run.
        modules: what the commands will need, to be imported once.
    """

    def __init__(self, folder: Path, *modules: str) -> None:
        environment = {**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
        command = [sys.executable, "-c", _FORKER, *modules]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, cwd=folder, env=environment, **pipes)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self._folder, self.log = folder, folder / "command.log"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __call__(self, *arguments: Any, kill_after: float | None = None) -> int:
        """Runs a command, and returns its exit status.

        Args:
            *arguments: of the command line.
            kill_after: seconds after which it gets SIGKILL; the status is then -9, unless it was faster.
        """
        self.log.unlink(missing_ok=True)
        pid = self._start(self._folder, self.log, self.log, arguments)
        if kill_after is not None:
            time.sleep(kill_after)
            with suppress(ProcessLookupError):  # it was faster
                os.kill(pid, signal.SIGKILL)
        return self._status()

    def run(
        self, folder: Path, *arguments: Any, timeout: float = 240, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in a folder, as `subprocess.run` would.

        Args:
            folder: where it runs, and where its output is kept.
            *arguments: of the command line.
            timeout: seconds after which it is killed, and the test fails.
            **environment: variables that it gets besides.
        """
        files = folder / "stdout", folder / "stderr"
        for file in files:
            file.write_text("")
        pid = self._start(folder, *files, arguments, environment)
        if not select.select([self._process.stdout], [], [], timeout)[0]:
            os.kill(pid, signal.SIGKILL)
            self._status()  # or the next command would take it for its own
            raise TimeoutError(f"{arguments} took more than {timeout} s")
        return subprocess.CompletedProcess(arguments, self._status(), *(file.read_text() for file in files))

    def _start(
        self, folder: Path, out: Path, err: Path, arguments: tuple[Any, ...], more: Mapping[str, str] | None = None
    ) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        environment = {**os.environ, **_ENVIRONMENT, **(more or {})}
        command = [str(folder), str(out), str(err), environment, [*map(str, arguments)]]
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def _status(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


def kill_and_resume(
    fork: Forker,
    folder: Path,
    runs: Path,
    config: dict[str, Any],
    kills: int,
    assert_same: Callable[[Path, Path], None],
) -> None:
    """Kills runs of a config ``kills`` times in all, up to four times each, and compares each with an undisturbed one.

    Moments are uniform over what an undisturbed command takes, so that a kill falls into the start, into a step, into
    the writing of a checkpoint or into what follows training.

    Args:
        fork: starts the commands.
        folder: where configs are written.
        runs: the root of the runs.
        config: of the run.
        kills: kills in all.
        assert_same: compares a run's folder with the undisturbed one's.
    """
    path = write_config(folder / "reference.yaml", config)
    began = time.monotonic()
    assert fork("fit", "-c", path) == 0, fork.log.read_text()
    seconds = time.monotonic() - began
    reference = (runs / "own" / "reference" / "latest").resolve()
    chooser = random.Random(kills)
    number = done = 0
    while done < kills:
        number += 1
        name = f"killed_{number}"
        command: list[Any] = ["fit", "-c", write_config(folder / f"{name}.yaml", config)]
        latest = runs / "own" / name / "latest"
        for _ in range(min(4, kills - done)):
            status = fork(*command, kill_after=chooser.uniform(0, seconds))
            if status == 0:
                break
            assert status == -signal.SIGKILL, fork.log.read_text()
            if (latest / "config.yaml").is_file():  # before that there is no run yet
                command = ["fit", "--run", latest, "--ckpt_path", "last"]
                done += 1
        assert fork(*command) == 0, fork.log.read_text()
        assert_same(latest.resolve(), reference)
