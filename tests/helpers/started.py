"""A command that runs in another process until a test ends it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from support import HELPERS, processes_with


class Started:
    """`plcourse` in another process, whose children carry a mark by which they are found.

    Args:
        arguments: the verb and what follows it.
    """

    def __init__(self, *arguments: object) -> None:
        self.marker = f"started-{os.getpid()}-{time.monotonic_ns()}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "plcourse", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(HELPERS), "PLCOURSE_TEST_MARKER": self.marker},
        )

    def wait_for(self, something: Callable[[], Any]) -> None:
        """Waits until a condition holds; kills the process if it ends before or takes 120 s."""
        deadline = time.monotonic() + 120
        try:
            while not something():
                assert self.process.poll() is None, self.process.communicate()
                assert time.monotonic() < deadline
                time.sleep(0.005)
        except BaseException:
            self.process.kill()  # what a failed test leaves would slow all others down
            raise

    def end(self, signum: int) -> tuple[int, str, str]:
        """Sends a signal and checks that no process is left; returns the status, the output and the errors."""
        self.process.send_signal(signum)
        try:
            out, err = self.process.communicate(timeout=90)
        finally:
            self.process.kill()
        deadline = time.monotonic() + 10
        while (left := processes_with(self.marker)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert left == []
        return self.process.returncode, out, err
