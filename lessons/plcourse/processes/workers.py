"""Warm worker processes: each carries out task after task, and none outlives the process that started it.

Workers are forked where that is possible, after the imports that they are to inherit, and started afresh elsewhere. A
signal to this process is handed on to the tasks that run; a worker that dies, or whose task failed, is replaced.
"""

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any

from plcourse.errors import Interrupted, UserError
from plcourse.processes import launch

_POLL = 0.2  # seconds between two looks at signals and screen; results are taken at once
_REPEAT = 0.3  # a signal again within this time is the same one, as in `launch`

Task = tuple[Callable[..., Any], Any]


class Signals:
    """SIGINT and SIGTERM are noted, for the pool to hand on to the tasks that run.

    Attributes:
        stop: the signal that asked everything to end, 0 for none.
        again: whether it came once more, which ends everything at once.
    """

    def __init__(self) -> None:
        self.stop = 0
        self.again = False
        self._at = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(signum) != signal.SIG_IGN:
                    self._before[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, _: FrameType | None) -> None:
        if self.stop and time.monotonic() - self._at > _REPEAT:
            self.again = True
        if not self.stop:
            self.stop, self._at = signum, time.monotonic()


@dataclass
class Crew:
    """How the workers of this command are made.

    Attributes:
        n_jobs: at most so many at a time.
        threads: torch's threads in each.
        forks: whether they are forked from this process, or start as new interpreters.
        signals: what this process was asked to do.
    """

    n_jobs: int
    threads: int
    forks: bool
    signals: Signals

    @classmethod
    def prepare(
        cls, n_jobs: int, threads: int | None, signals: Signals, preload: Callable[[], object] = lambda: None
    ) -> "Crew":
        """Imports what the workers are to inherit, and shares out the cores.

        Args:
            n_jobs: at most so many workers at a time.
            threads: torch's threads in each; None for `OMP_NUM_THREADS`, else an equal share of the cores.
            signals: what this process was asked to do.
            preload: imports what every task needs; called once, before workers are forked from this process.
        """
        used = "torch" in sys.modules  # by the program that called us
        forks = launch.can_fork()
        if forks:
            preload()
        if threads is None:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            chosen = os.environ.get("OMP_NUM_THREADS", "")
            threads = int(chosen) if chosen.isdecimal() and int(chosen) else max(1, cores // n_jobs)
        if used and forks and threads > 1 and not launch.threads_survive(threads):
            text = "this process has run torch on several threads, which a fork breaks: each worker gets one thread"
            warnings.warn(text, UserWarning, stacklevel=3)
            threads = 1
        return cls(n_jobs, threads, forks, signals)

    def pool(self, tasks: int) -> "Pool":
        """Workers that carry out task after task."""
        return Pool(min(self.n_jobs, tasks), self.threads, self.forks, self.signals)

    def single(self) -> "Pool":
        """One worker at a time, a new one for each task, whose ranks share out the cores themselves."""
        return Pool(1, None, self.forks, self.signals, reuse=False)


class Pool:
    """Worker processes that carry out tasks one after another.

    Args:
        n_jobs: how many; 0 for none.
        threads: torch's threads in each; None leaves them to the task.
        forks: fork them from this process; else they start as new interpreters.
        signals: what this process was asked to do.
        reuse: whether a worker takes a second task.
    """

    def __init__(self, n_jobs: int, threads: int | None, forks: bool, signals: Signals, reuse: bool = True) -> None:
        self._context = multiprocessing.get_context("fork" if forks else "spawn")
        self._n_jobs, self._threads, self._signals, self._reuse = n_jobs, threads, signals, reuse
        self._workers: list[_Worker] = []
        self._told: set[_Worker] = set()

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.end()

    def run(
        self,
        tasks: Sequence[Task],
        started: Callable[[int], None] = lambda at: None,
        tick: Callable[[], None] = lambda: None,
        wake: Sequence[Any] = (),
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Carries tasks out; yields the number and the outcome of each as it ends.

        An outcome has `status` (`finished`, `failed`, `interrupted`), `error` (one line or None), `value` and
        `seconds`. Once asked to stop, the tasks that run are told, and no other begins.

        Args:
            tasks: functions of a module with one argument each.
            started: called with the number of a task that is about to begin.
            tick: called a few times a second, and whenever something of ``wake`` is ready.
            wake: connections on which the tasks say something meanwhile.
        """
        waiting = list(range(len(tasks)))
        while (waiting and not self._signals.stop) or any(worker.busy for worker in self._workers):
            while waiting and not self._signals.stop and (worker := self._free()) is not None:
                at = waiting.pop(0)
                started(at)
                worker.give(at, tasks[at])
            self._forward()
            handles = {handle: worker for worker in self._workers if worker.busy for handle in worker.handles}
            ready = wait([*handles, *wake], _POLL)  # pyright: ignore[reportArgumentType]  (a handle is either kind)
            for worker in {handles[handle] for handle in ready if handle in handles}:
                at, outcome = worker.take()
                if self._signals.again and outcome["status"] == "failed":
                    outcome |= {"status": "interrupted", "error": None}  # we killed it
                if outcome["status"] != "finished" or not self._reuse:
                    worker.end()  # what a failure left behind is no concern of the next task
                    self._workers.remove(worker)
                yield at, outcome
            tick()

    def _free(self) -> "_Worker | None":
        """A worker that has nothing to do; a new one while there are fewer than `n_jobs`."""
        for worker in [worker for worker in self._workers if not worker.alive]:
            worker.end()  # died after its last task
            self._workers.remove(worker)
        if (idle := next((worker for worker in self._workers if not worker.busy), None)) is not None:
            return idle
        if len(self._workers) == self._n_jobs:
            return None
        self._workers.append(_Worker(self._context, self._threads))
        return self._workers[-1]

    def _forward(self) -> None:
        """Hands a signal on, once to each busy worker; a second one kills them."""
        if not self._signals.stop:
            return
        for worker in self._workers:
            if self._signals.again:
                worker.kill()
            elif worker.busy and worker not in self._told:
                self._told.add(worker)
                worker.signal(self._signals.stop)


class _Worker:
    """One worker process, seen from outside."""

    def __init__(self, context: Any, threads: int | None) -> None:
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, os.getpid(), threads), name="plcourse-worker")
        with warnings.catch_warnings():
            # As in `launch`: the threads that Python warns of are idle ones, which survive.
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            self._process.start()
        theirs.close()
        self._at = -1
        self._began = 0.0

    @property
    def busy(self) -> bool:
        """Whether it has a task."""
        return self._at >= 0

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process.is_alive()

    @property
    def handles(self) -> tuple[Any, Any]:
        """What becomes ready when it has ended its task, or itself."""
        return self._connection, self._process.sentinel

    def give(self, at: int, task: Task) -> None:
        """Gives it a task."""
        self._at, self._began = at, time.monotonic()
        with contextlib.suppress(OSError):  # it has died meanwhile, which `take` will find
            self._connection.send(task)

    def take(self) -> tuple[int, dict[str, Any]]:
        """The number of its task and the outcome."""
        at, self._at = self._at, -1
        try:
            outcome = self._connection.recv() if self._connection.poll() else None
        except (EOFError, OSError):
            outcome = None
        if outcome is None:
            self.kill()  # what is left of its group
            self._process.join()
            outcome = {"status": "failed", "error": _death(self._process.exitcode), "value": None}
        return at, {**outcome, "seconds": time.monotonic() - self._began}

    def signal(self, signum: int) -> None:
        """Sends a signal to the worker alone; its ranks and loaders hear of it from the worker."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signum)

    def kill(self) -> None:
        """Kills it, with the processes in its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGKILL)  # before it has a group of its own

    def end(self) -> None:
        """Ends it: an idle worker leaves by itself, a busy one is killed."""
        if self.busy:
            self.kill()
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._process.join(5)
        if self._process.is_alive():
            self.kill()
            self._process.join()
        self._connection.close()
        self._process.close()


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"the worker was killed by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
    return f"the worker exited with status {code} in the middle of its task"


class _Stop:
    """In a worker: raises Interrupted where a task runs, or as soon as one begins; once."""

    def __init__(self) -> None:
        self.signum = 0
        self.armed = False

    def __call__(self, signum: int, _: FrameType | None) -> None:
        self.signum = signum
        if self.armed:
            self.armed = False
            raise Interrupted(signum)

    def check(self) -> None:
        """Lets signals through from now on, also one that came before."""
        self.armed = True
        if self.signum:
            self.armed = False
            raise Interrupted(self.signum)


def _serve(connection: Connection, supervisor: int, threads: int | None) -> None:
    """The life of a worker."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)  # Ctrl-C reaches the supervisor alone, which hands it on
    launch.die_with(supervisor)
    stop = _Stop()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)
    signal.set_wakeup_fd(-1)
    send_output_to(os.devnull)
    if threads is not None:
        import torch

        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
    gc.freeze()  # what was inherited stays shared with the parent, and no collection goes through it
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


def _carry_out(task: Task, stop: _Stop) -> dict[str, Any]:
    function, argument = task
    status, error, value = "finished", None, None
    try:
        with _isolated():
            stop.check()
            value = function(argument)
            stop.armed = False
    except (Interrupted, KeyboardInterrupt):
        status = "interrupted"
    except BaseException as raised:
        status, error = "failed", one_line(raised)
        text = f"plcourse: error: {error}" if isinstance(raised, UserError) else traceback.format_exc()
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(f"{text}\n")
    finally:
        stop.armed = False
    return {"status": status, "error": error, "value": value}


def one_line(error: BaseException) -> str:
    """An error on one line, with its type where it is not for the user to mend."""
    text = " ".join(str(error).split())
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}".removesuffix(": ")


@contextlib.contextmanager
def _isolated() -> Iterator[None]:
    """Puts back what a task changed in its process, and gives its memory back."""
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
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for number in (1, 2):
        os.dup2(log, number)
    os.close(log)
    sys.stdout, sys.stderr = (
        open(number, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        for number in (1, 2)
    )
