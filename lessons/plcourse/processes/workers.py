"""Warm worker processes that carry out one task after another and never outlive the process that started them.

Workers are forked where that is possible, after the imports that they should inherit; elsewhere they start as new
interpreters. The pool passes signals on to running tasks, and replaces a worker that has died or whose task failed.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from types import FrameType
from typing import Any

from plcourse.processes.diagnosis import signal_name
from plcourse.processes.forking import can_fork, threads_after_fork
from plcourse.processes.worker_process import Outcome, Task, serve

_POLL = 0.2  # seconds between two polls of signals and screen; results are taken at once
_REPEAT = 0.3  # the same signal within this time counts once, as in `supervisor`


class Signals:
    """Records SIGINT and SIGTERM, so that the pool can pass them on to the running tasks."""

    def __init__(self) -> None:
        self.stop = 0  # the signal that asked everything to end, 0 for none
        self.again = False  # whether a second signal came, which ends everything at once
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
class PoolSettings:
    """How the workers of a command are created."""

    n_jobs: int  # the largest number of workers at a time
    threads: int  # torch's threads in each worker
    forks: bool  # whether workers are forked from this process; otherwise they start as new interpreters
    signals: Signals  # what this process has received

    @classmethod
    def prepare(
        cls, n_jobs: int, threads: int | None, signals: Signals, preload: Callable[[], object] = lambda: None
    ) -> "PoolSettings":
        """Imports what the workers should inherit, and divides the cores among them.

        Args:
            n_jobs: the largest number of workers at a time.
            threads: torch's threads in each worker; None for `OMP_NUM_THREADS`, or else an equal part of the cores.
            signals: what this process has received.
            preload: imports what every task needs; called once, and only if workers are forked from this process.
        """
        used = "torch" in sys.modules  # by the program that called us
        forks = can_fork()
        if forks:
            preload()
        if threads is None:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            chosen = os.environ.get("OMP_NUM_THREADS", "")
            threads = int(chosen) if chosen.isdecimal() and int(chosen) else max(1, cores // n_jobs)
        if used and forks:
            threads = threads_after_fork(threads, "worker", stacklevel=4)
        return cls(n_jobs, threads, forks, signals)

    def pool(self, tasks: int) -> "WorkerPool":
        """Returns a pool whose workers carry out task after task."""
        return WorkerPool(min(self.n_jobs, tasks), self.threads, self.forks, self.signals)

    def single(self) -> "WorkerPool":
        """Returns a pool that runs one task at a time, each in a new worker whose ranks divide the cores themselves."""
        return WorkerPool(1, None, self.forks, self.signals, reuse=False)


class WorkerPool:
    """Worker processes that carry out tasks one after another.

    Args:
        n_jobs: number of workers; 0 for none.
        threads: torch's threads in each worker; None leaves them to the task.
        forks: whether to fork workers from this process; otherwise they start as new interpreters.
        signals: what this process has received.
        reuse: whether a worker takes a second task.
    """

    def __init__(self, n_jobs: int, threads: int | None, forks: bool, signals: Signals, reuse: bool = True) -> None:
        self._context = multiprocessing.get_context("fork" if forks else "spawn")
        self._n_jobs, self._threads, self._signals, self._reuse = n_jobs, threads, signals, reuse
        self._workers: list[_Worker] = []
        self._signalled: set[_Worker] = set()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.end()

    def run(
        self,
        tasks: Sequence[Task],
        started: Callable[[int], None] = lambda at: None,
        tick: Callable[[], None] = lambda: None,
        wake: Sequence[Connection] = (),
    ) -> Iterator[tuple[int, Outcome]]:
        """Carries out tasks; yields the number and the outcome of each as it ends.

        Once this process is asked to stop, the running tasks are signalled and no other task begins.

        Args:
            tasks: functions of a module with one argument each.
            started: called with the number of a task that is about to begin.
            tick: called a few times a second, and whenever something of ``wake`` is ready.
            wake: connections through which tasks send messages while they run.
        """
        waiting = list(range(len(tasks)))
        while (waiting and not self._signals.stop) or any(worker.busy for worker in self._workers):
            while waiting and not self._signals.stop and (worker := self._free()) is not None:
                at = waiting.pop(0)
                started(at)
                worker.give(at, tasks[at])
            self._forward_signal()
            handles = {handle: worker for worker in self._workers if worker.busy for handle in worker.handles}
            ready = wait([*handles, *wake], _POLL)  # pyright: ignore[reportArgumentType]  (a handle is either kind)
            for worker in {worker for handle, worker in handles.items() if handle in ready}:
                at, outcome = worker.take()
                if self._signals.again and outcome.status == "failed":
                    outcome = replace(outcome, status="interrupted", error=None)  # we killed it
                if outcome.status != "finished" or not self._reuse:
                    worker.end()  # the next task must not meet what a failure left behind
                    self._workers.remove(worker)
                yield at, outcome
            tick()

    def _free(self) -> "_Worker | None":
        """Returns an idle worker; a new one while there are fewer than `n_jobs`."""
        for worker in [worker for worker in self._workers if not worker.alive]:
            worker.end()  # died after its last task
            self._workers.remove(worker)
        if (idle := next((worker for worker in self._workers if not worker.busy), None)) is not None:
            return idle
        if len(self._workers) == self._n_jobs:
            return None
        self._workers.append(_Worker(self._context, self._threads))
        return self._workers[-1]

    def _forward_signal(self) -> None:
        """Passes a signal on, once to each busy worker; a second signal kills them."""
        if not self._signals.stop:
            return
        for worker in self._workers:
            if self._signals.again:
                worker.kill()
            elif worker.busy and worker not in self._signalled:
                self._signalled.add(worker)
                worker.signal(self._signals.stop)


class _Worker:
    """One worker process, seen from the pool."""

    def __init__(self, context: Any, threads: int | None) -> None:
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, os.getpid(), threads), name="plcourse-worker")
        with warnings.catch_warnings():
            # As in `forking.fork`: the threads that Python warns about are idle ones, which survive.
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            self._process.start()
        theirs.close()
        self._at = -1
        self._began = 0.0

    @property
    def busy(self) -> bool:
        return self._at >= 0

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    @property
    def handles(self) -> tuple[Connection, int]:
        """What becomes ready when the worker has finished its task, or has ended itself."""
        return self._connection, self._process.sentinel

    def give(self, at: int, task: Task) -> None:
        self._at, self._began = at, time.monotonic()
        with contextlib.suppress(OSError):  # it has died in the meantime, which `take` will find
            self._connection.send(task)

    def take(self) -> tuple[int, Outcome]:
        """Returns the number of the worker's task and its outcome."""
        at, self._at = self._at, -1
        try:
            outcome = self._connection.recv() if self._connection.poll() else None
        except (EOFError, OSError):
            outcome = None
        if outcome is None:
            self.kill()  # what is left of its group
            self._process.join()
            outcome = Outcome("failed", _death(self._process.exitcode))
        return at, replace(outcome, seconds=time.monotonic() - self._began)

    def signal(self, signum: int) -> None:
        """Signals the worker alone, which passes the signal on to its ranks and loaders."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signum)

    def kill(self) -> None:
        """Kills the worker and the processes in its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGKILL)  # in case it does not lead a group yet

    def end(self) -> None:
        """Ends the worker: an idle one exits by itself, a busy one is killed."""
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
        guess = " (out of memory?)" if -code == signal.SIGKILL else ""
        return f"the worker was killed by {signal_name(-code)}{guess}"
    return f"the worker exited with status {code} in the middle of its task"
