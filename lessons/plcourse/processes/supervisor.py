"""Starts the rank processes of one job and supervises them: a small torchrun for one machine.

`supervise` forks, so that the import of torch is paid once, and returns only if every rank has finished. Otherwise it
ends the whole job and raises one error that names the first cause (see `plcourse.processes.diagnosis`).

How it stays reliable:

- Ranks report to shared memory: step and time of the last sign of life, state, failure text. A rank has succeeded only
  if it says so there; exit status 0 alone proves nothing.
- Each rank leads its own process group, so that its loader workers die with it. The terminal therefore reaches only the
  supervisor, which forwards Ctrl-C, SIGTERM and Ctrl-Z, once each. Ranks read /dev/null, and may write under
  ``stty tostop``, as background processes otherwise could not.
- The supervisor serves the store through which the ranks find each other, on this machine only. So no rank's death
  takes it away, nobody else can take its port, and no rank waits for rank 0 to start one, which would double the
  timeout.
- The kernel kills the ranks if the supervisor dies, however it dies. Ended ranks are not reaped before the last kill,
  so that a process id can never have passed to a stranger.
- Asked to stop, all ranks must stop before the same step; otherwise one waits forever in a collective. They agree
  through the shared memory, without a collective: see `plcourse.processes.rank_process.beat`.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from plcourse.errors import Interrupted, RunFailed, UserError
from plcourse.processes.diagnosis import RankStatus, first_cause, rank_names, signal_name
from plcourse.processes.forking import fork, threads_per_rank
from plcourse.processes.rank_process import flush_output, run_rank
from plcourse.processes.shared_state import Failure, SharedState, State

STOP_SECONDS = 60.0  # from a signal to the end of the step that it interrupts
_POLL = 0.05  # seconds between two polls of the ranks; a poll takes some 10 us
_REPEAT = 0.3  # the same signal within this time counts once: `timeout` signals the process and its group
_DRAIN = 0.002  # long enough for every store that a core had pending to become visible to the others
_REAP = 5.0  # after SIGKILL; only a process inside a hung driver or file system takes longer


def supervise(
    n: int,
    worker: Callable[[int], None],
    *,
    timeout: float | None = None,
    settle: float = 0.5,
    grace: float = 3.0,
    stop_timeout: float = STOP_SECONDS,
) -> None:
    """Runs ``worker(rank)`` in n forked processes and returns when all of them have finished.

    Call it in a process that has not used CUDA (see `plcourse.processes.forking.can_fork`). Outside the main thread, no
    signals are handled: the ranks end with the calling thread. To stop in answer to a signal, a worker raises
    `Interrupted` once its checkpoint is written. SIGINT and SIGTERM have their default handlers in a rank; a rank that
    installs others should only note the request, since cluster managers signal the ranks themselves too. A second
    signal, more than 0.3 s after the first, kills the ranks at once.

    Args:
        n: number of ranks, at least 1.
        worker: called with the rank; its return value is ignored.
        timeout: the collectives' timeout in seconds. Messages about a stalled rank name it. It also ends a job in which
            a rank falls silent after others have finished, which no collective notices; None does not watch for that.
        settle: seconds to wait after the first failure for a better explanation of it.
        grace: seconds from SIGTERM to SIGKILL for the survivors of a failure.
        stop_timeout: seconds that the ranks have to stop when asked.

    Raises:
        RunFailed: a rank died, exited early, raised, or stalled; the message names the first cause.
        UserError: a rank raised it; text and status are kept.
        Interrupted: SIGINT or SIGTERM stopped the job.
    """
    if n < 1:
        raise ValueError(f"n is {n}; a job needs at least 1 rank")
    Supervisor(n, timeout, settle, grace, stop_timeout).run(worker)


class Supervisor:
    """Starts, watches and ends the ranks of one job; see `supervise` for the arguments."""

    def __init__(self, n: int, timeout: float | None, settle: float, grace: float, stop_timeout: float) -> None:
        self.ranks = [RankStatus(rank) for rank in range(n)]
        self.shared = SharedState(n)
        self.timeout, self.settle = timeout, settle
        self.grace, self.stop_timeout = grace, stop_timeout
        self.signals: list[tuple[int, float]] = []
        self.suspend = False
        self.resumed = 0.0
        self.stop = 0
        self.stopping_since = 0.0

    def run(self, worker: Callable[[int], None]) -> None:
        """Runs the job to its end; raises what `supervise` raises."""
        # Documented there, though missing from its __all__.
        from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

        threads = threads_per_rank(len(self.ranks))
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener, self._handlers():
            port = listener.getsockname()[1]
            try:
                self._start(worker, listener, threads)
                # Only now, because it starts a thread, which must not exist in a fork. Ranks that connect earlier wait.
                store = TCPStore(
                    "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
                )
                error = self._watch()
            finally:
                self._end()
            del store
        if error is None and self.signals:
            # The signal came after all ranks had finished; it still asks the command not to go on.
            error = Interrupted(self.signals[0][0])
        if error is not None:
            raise error

    @contextlib.contextmanager
    def _handlers(self) -> Iterator[None]:
        """Records the signals to forward; what the caller ignores (as `&` in a script does) stays ignored."""
        if threading.current_thread() is not threading.main_thread():  # only the main thread may install handlers
            yield
            return
        before: dict[signal.Signals, Any] = {}

        def replace(signum: signal.Signals, handler: Any) -> None:
            old = signal.getsignal(signum)
            if old is not None:  # None: installed outside Python, so that it could not be restored
                before[signum] = old
                signal.signal(signum, handler)

        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGTSTP):
            if signal.getsignal(signum) != signal.SIG_IGN:
                replace(signum, self._on_signal)
        if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
            replace(signal.SIGCHLD, signal.SIG_DFL)  # if ignored, the kernel discards exit statuses
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _on_signal(self, signum: int, _: FrameType | None) -> None:
        if signum == signal.SIGTSTP:
            self.suspend = True
        else:
            self.signals.append((signum, time.monotonic()))

    def _start(self, worker: Callable[[int], None], listener: socket.socket, threads: int) -> None:
        supervisor = os.getpid()
        flush_output()  # otherwise each rank would write the same buffered text
        # Blocked until a rank has installed its own handlers: the parent's handlers would swallow a signal there.
        mask = set(signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGTSTP}))
        try:
            for rank in self.ranks:
                rank.beat = self.shared.ranks[rank.rank].beat = time.monotonic()
                try:
                    pid = fork()
                except OSError as error:
                    raise RunFailed(f"rank {rank.rank} could not be started: {error}") from None
                if pid == 0:
                    port = listener.getsockname()[1]
                    listener.close()
                    run_rank(self.shared, rank.rank, worker, port, threads, supervisor, mask)
                rank.pid = pid
                with contextlib.suppress(OSError):  # the child does the same; the first of both counts
                    os.setpgid(pid, pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _watch(self) -> BaseException | None:
        """Waits for the end of the job; returns the error to raise, if any. `_end` does the killing."""
        failed_since = None
        while True:
            time.sleep(_POLL)
            if self.suspend:
                self._suspend()
            now = time.monotonic()
            self._update(now)
            if self.signals and not self.stop:
                self._ask_to_stop(self.signals[0][0])
            if self._signalled_again():
                return Interrupted(self.stop)

            failed = [rank for rank in self.ranks if rank.failed]
            interrupted = [rank for rank in self.ranks if rank.state == State.INTERRUPTED]
            if interrupted and not self.stop:
                # Someone signalled a single rank; a job stops as a whole.
                self._ask_to_stop(interrupted[0].status)
            if self.stop and all(rank.secondary for rank in failed):
                # Ranks that stop at different places cut each other off. That is no failure if one of them could
                # report that all was saved.
                if all(rank.over for rank in self.ranks):
                    return Interrupted(self.stop) if interrupted or not failed else self._cause()
                if now - self.stopping_since > self.stop_timeout:
                    late = rank_names([rank.rank for rank in self.ranks if not rank.over])
                    asked = f"within {self.stop_timeout:g} s of {signal_name(self.stop)}"
                    return RunFailed(f"{late} did not stop {asked} and had to be killed; the last checkpoint is intact")
                continue
            if failed:
                failed_since = failed_since or now
                if now - failed_since >= self._patience(failed) or all(rank.over for rank in self.ranks):
                    return self._cause()
            elif all(rank.over for rank in self.ranks):
                return None
            elif laggard := self._left_behind(now):
                silence = f"it gave no sign of life for {self.timeout:g} s after another rank had finished"
                return RunFailed(f"{laggard.stalled}: {silence}")

    def _update(self, now: float) -> None:
        """Updates what is known of each rank."""
        for rank in self.ranks:
            if not rank.alive:
                continue
            # WNOWAIT keeps an ended process as a zombie: its id, and its group's, stay ours until _end.
            seen = os.waitid(os.P_PID, rank.pid, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
            rank.suspended = seen is not None and seen.si_code == os.CLD_STOPPED
            record = self.shared.ranks[rank.rank]
            rank.step, rank.beat, state = record.step, record.beat, State(record.state)
            if state != rank.state:
                rank.status = record.status
                if state == State.FAILED:
                    rank.failure, rank.ended = Failure(record.failure), record.failed_at
                    rank.text = record.text.decode()
                rank.state = state
            if seen is None or rank.suspended:
                continue
            rank.code = seen.si_status if seen.si_code == os.CLD_EXITED else -seen.si_status
            rank.ended = rank.ended or now
            if rank.state == State.RUNNING:
                self._classify_death(rank, now)

    def _classify_death(self, rank: RankStatus, now: float) -> None:
        """Recognizes the deaths without a report that are not the rank's own doing."""
        if self.stop and rank.code == -self.stop:
            # The forwarded signal reached a rank that had no handler yet: it obeyed, with nothing to save.
            rank.state, rank.status = State.INTERRUPTED, self.stop
        elif rank.code == -signal.SIGABRT and self.timeout and now - rank.beat >= self.timeout:
            # NCCL's watchdog aborts a process that has waited too long.
            rank.state, rank.failure, rank.text = State.FAILED, Failure.TIMED_OUT, "aborted\nwaiting in a collective"

    def _ask_to_stop(self, signum: int) -> None:
        """Requests a stop before the same tick in every rank, and forwards the signal, once.

        A rank writes its tick and then reads the request. So, once the request has been visible for a moment, a rank
        that passed without seeing it shows the tick it passed; at its next tick it sees the request and waits for the
        choice of the last tick. One more than the highest tick is therefore a step that no rank has entered.
        """
        self.stop = signum
        self.stopping_since = time.monotonic()
        self.shared.job.requested = signum
        time.sleep(_DRAIN)
        self.shared.job.last_tick = 1 + max(record.tick for record in self.shared.ranks)
        for rank in self.ranks:
            if rank.silent:
                os.kill(rank.pid, signum)

    def _signalled_again(self) -> bool:
        return any(when - self.signals[0][1] > _REPEAT for _, when in self.signals)

    def _suspend(self) -> None:
        """Handles Ctrl-Z: suspends the ranks, then this process as if it had no handler; wakes them when woken."""
        self.suspend = False
        self._signal_groups(signal.SIGSTOP)
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)
        self._signal_groups(signal.SIGCONT)
        self.resumed = time.monotonic()

    def _signal_groups(self, signum: int) -> None:
        for rank in self.ranks:
            if rank.pid:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(rank.pid, signum)

    def _patience(self, failed: Sequence[RankStatus]) -> float:
        """Returns how long to wait for a better explanation than the failures so far."""
        puzzling = all(rank.secondary for rank in failed)
        silent = sum(rank.silent for rank in self.ranks)
        # One silent rank while the others timed out is clear. Otherwise a rank may be about to report its failure.
        if puzzling and (silent > 1 or all(rank.failure == Failure.CUT_OFF for rank in failed)):
            return 3 * self.settle
        return self.settle

    def _left_behind(self, now: float) -> RankStatus | None:
        """Returns a rank that has been silent for the timeout since another rank finished."""
        finished = [rank.beat for rank in self.ranks if rank.state == State.DONE]
        if not finished or self.timeout is None:
            return None
        since = max(*finished, self.resumed)
        # Later than a collective would time out, because that error says more.
        limit = self.timeout + 3 * self.settle
        late = [rank for rank in self.ranks if rank.silent and now - max(rank.beat, since) > limit]
        return min(late, key=lambda rank: rank.beat, default=None)

    def _cause(self) -> UserError:
        error = first_cause(self.ranks, self.timeout)
        if self.stop and type(error) is RunFailed:
            return RunFailed(f"{error}, while stopping on {signal_name(self.stop)}")
        return error

    def _end(self) -> None:
        """Ends every process of the job, and returns when they are gone."""
        self.shared.job.leave = 1
        started = [rank for rank in self.ranks if rank.pid]
        known = len(self.signals)
        self._note_ends(started)
        again = self._signalled_again()
        for rank in started:
            # A rank that has stalled, or was told to stop long ago, does not answer SIGTERM.
            if rank.alive and rank.state == State.RUNNING and not (rank.suspended or again):
                os.kill(rank.pid, signal.SIGTERM)
        deadline = time.monotonic() + (0 if again else self.grace)
        while any(rank.alive and not rank.suspended for rank in started) and time.monotonic() < deadline:
            time.sleep(0.01)
            self._note_ends(started)
            if len(self.signals) > known:
                break  # the user has signalled again
        self._signal_groups(signal.SIGKILL)
        deadline = time.monotonic() + _REAP
        while started and time.monotonic() < deadline:
            started = [rank for rank in started if os.waitpid(rank.pid, os.WNOHANG)[0] == 0]
            if started:
                time.sleep(0.005)

    def _note_ends(self, started: Sequence[RankStatus]) -> None:
        for rank in started:
            if rank.alive and os.waitid(os.P_PID, rank.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                rank.code = 0
