"""A process per runtime: it opens one exported file, and runs and times it for a parent that holds the data.

Runtimes in one process disturb each other: onnxruntime's threads spin after a call, and torch operators have been
measured to take 20 times as long beside them. So each exported file gets its own process, which loads no other runtime.
Messages are pickles over the process's pipes. The process ends when they close, however its parent ended.
"""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plcourse.errors import RunFailed, UserError, first_line
from plcourse.export.certificate import Timing
from plcourse.export.runners import Runner, open_exported
from plcourse.runs import signatures
from plcourse.runs.run import Run

TIMED_SECONDS = 0.3  # per format and batch size
WARM_UP = 5  # calls that do not count
LEAST_CALLS = 20


class Worker:
    """A process that has one exported file open and runs it with a number of threads.

    Attributes:
        load_seconds: how long the runtime took to open the file, without its import.

    Raises:
        UserError: the file cannot be opened; see `open_exported`.
    """

    def __init__(self, run: Run, format_: str, threads: int) -> None:
        self.format = format_
        command = [sys.executable, "-P", "-m", "plcourse.export.worker"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        try:
            trusted = [str(path) for path in signatures.trusted_paths()]
            self.load_seconds: float = self._ask("open", str(run.path), format_, threads, trusted)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Runs the file on one batch of inputs."""
        return self._ask("run", list(inputs))

    def time(self, inputs: Sequence[np.ndarray], *limits: float) -> list[float]:
        """Seconds of each call on these inputs; see `timed` for the limits."""
        return self._ask("time", list(inputs), *limits)

    def close(self) -> None:
        """Ends the process."""
        self._requests.close()
        self._answers.close()
        self._process.terminate()
        self._process.wait()

    def _ask(self, what: str, *arguments: object) -> Any:
        try:
            pickle.dump((what, arguments), self._requests, pickle.HIGHEST_PROTOCOL)
            self._requests.flush()
            outcome, value = pickle.load(self._answers)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            status = self._process.wait()
            cause = signal.Signals(-status).name if status < 0 else f"status {status}"
            raise RunFailed(f"{self.format}: its process ended with {cause}") from error
        if outcome == "error":
            raise UserError(value)
        return value


def timed(
    runner: Runner,
    inputs: Sequence[np.ndarray],
    seconds: float,
    least_calls: int = LEAST_CALLS,
    warm_up: int = WARM_UP,
) -> list[float]:
    """Returns the seconds of each call after ``warm_up`` calls, for at least ``seconds`` and ``least_calls`` calls."""
    for _ in range(warm_up):
        runner(inputs)
    calls: list[float] = []
    while sum(calls) < seconds or len(calls) < least_calls:
        start = time.perf_counter()
        runner(inputs)
        calls.append(time.perf_counter() - start)
    return calls


def percentiles(calls: Sequence[float]) -> Timing:
    """Summarizes the seconds of some calls."""
    p50, p99 = np.percentile(np.array(calls) * 1e3, [50, 99])
    return {"p50_ms": float(p50), "p99_ms": float(p99), "calls": len(calls)}


def main() -> None:
    """Answers the parent until it closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent decides
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a runtime prints must not mix with the answers
    runner: Runner | None = None
    while True:
        try:
            what, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            if what == "open":
                path, format_, threads, trusted = arguments
                _import_runtime(format_)
                start = time.perf_counter()
                with signatures.trusting(map(Path, trusted)):
                    runner, _ = open_exported(Run(path), format_, threads)
                value: Any = time.perf_counter() - start
            else:
                assert runner is not None
                value = runner(*arguments) if what == "run" else timed(runner, *arguments)
            answer = ("done", value)
        except UserError as error:
            answer = ("error", str(error))
        except Exception as error:  # the parent reports whatever a runtime raises
            answer = ("error", f"{type(error).__name__}: {first_line(error)}")
        pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _import_runtime(format_: str) -> None:
    """Imports what opening a file needs, so that the load time excludes it."""
    if format_.startswith("onnx"):
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    else:
        import torch  # noqa: F401


if __name__ == "__main__":
    main()
