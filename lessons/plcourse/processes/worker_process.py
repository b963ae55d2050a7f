"""The worker's side of a pool: takes tasks from a connection, isolates them from each other, returns outcomes."""

import contextlib
import gc
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from plcourse.errors import Interrupted, UserError, place, printable
from plcourse.processes.forking import die_with
from plcourse.processes.rank_process import flush_output

Task = tuple[Callable[..., Any], Any]


@dataclass(frozen=True)
class Outcome:
    """How a task ended."""

    status: Literal["finished", "failed", "interrupted"]
    error: str | None = None  # one line
    value: Any = None  # what the task returned
    seconds: float = 0.0  # how long it took


class _StopHandler:
    """Raises Interrupted where a task runs, or as soon as the next one begins; once."""

    def __init__(self) -> None:
        self.signum = 0
        self.armed = False

    def __call__(self, signum: int, _: FrameType | None) -> None:
        self.signum = signum
        if self.armed:
            self.armed = False
            raise Interrupted(signum)

    def arm(self) -> None:
        """Lets signals interrupt the task from now on, including one that came before."""
        self.armed = True
        if self.signum:
            self(self.signum, None)


def serve(connection: Connection, supervisor: int, threads: int | None) -> None:
    """Runs a worker process, which carries out tasks until the connection closes or delivers None."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)  # Ctrl-C reaches only the supervisor, which passes it on
    die_with(supervisor)
    stop = _StopHandler()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    signal.set_wakeup_fd(-1)
    send_output_to(os.devnull)
    if threads is not None:
        import torch

        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
    gc.freeze()  # keeps inherited memory shared with the parent, and out of every collection
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        if task is None:
            return
        outcome = _carry_out(task, stop)
        send_output_to(os.devnull)
        connection.send(outcome)


def _carry_out(task: Task, stop: _StopHandler) -> Outcome:
    function, argument = task
    try:
        with _isolated():
            stop.arm()
            value = function(argument)
            stop.armed = False
        return Outcome("finished", value=value)
    except (Interrupted, KeyboardInterrupt):
        return Outcome("interrupted")
    except BaseException as raised:
        error = one_line(raised)
        text = f"plcourse: error: {error}" if isinstance(raised, UserError) else traceback.format_exc()
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{printable(text)}\n")
        return Outcome("failed", error)
    finally:
        stop.armed = False


def one_line(error: BaseException) -> str:
    """Returns an error as one line, with its type unless it is a `UserError`."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{place(error)}{type(error).__name__}: {text}".removesuffix(": ")


@contextlib.contextmanager
def _isolated() -> Iterator[None]:
    """Restores what a task changed in its process, and frees its memory."""
    import torch

    environment, arguments, filters = dict(os.environ), list(sys.argv), list(warnings.filters)
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    precision, dtype, threads = torch.get_float32_matmul_precision(), torch.get_default_dtype(), torch.get_num_threads()
    try:
        yield
    finally:
        for signum, handler in handlers.items():
            signal.signal(signum, handler)
        os.environ.clear()
        os.environ.update(environment)
        sys.argv[:] = arguments
        warnings.filters[:] = filters  # pyright: ignore[reportIndexIssue]  (a list, which the stubs call a sequence)
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn
        torch.set_float32_matmul_precision(precision)
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def send_output_to(path: str | Path) -> None:
    """Appends what this process prints from now on to a file."""
    flush_output()
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for number in (1, 2):
        os.dup2(log, number)
    os.close(log)
    sys.stdout, sys.stderr = (
        open(number, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        for number in (1, 2)
    )
