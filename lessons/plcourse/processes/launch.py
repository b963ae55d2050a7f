"""Starts the rank processes of one job and watches over them: a small torchrun for one node.

`supervise` forks, so that the import of torch is paid once, and returns only if every rank finished.
Otherwise the whole job is ended and one error names the first cause: when one rank dies, the others fail too
(gloo's "Connection closed by peer"), and those secondary failures are never reported.

What makes it hold:

- Ranks report to a block of shared memory: step and time of the last beat, state, failure text. A rank has
  succeeded only if it signed off there: exit status 0 alone proves nothing.
- Each rank leads a process group of its own, so that its loader workers die with it. The terminal therefore
  reaches only the supervisor, which forwards Ctrl-C, SIGTERM and Ctrl-Z, once each. What background
  processes may not do is arranged: ranks read /dev/null and may write under ``stty tostop``.
- The supervisor serves the store through which the ranks find each other, on this machine only. No rank's
  death takes it away, its port is never free for others to take, and a rank that waits for rank 0 to start
  one would wait twice the timeout.
- The kernel kills the ranks if the supervisor dies, however it dies. Ended ranks are not reaped before the
  last kill, so a process id can never have passed to a stranger.
- Asked to stop, the ranks must all stop before the same step, or one waits for ever in a collective. They
  agree through the shared memory, without a collective: see `beat`.

A rank gets the variables of Lightning's ``LightningEnvironment``, which launches nothing itself when
LOCAL_RANK is set.
"""

import contextlib
import ctypes
import mmap
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, NoReturn

from plcourse.errors import RUN_FAILED, Interrupted, RunFailed, UserError

_POLL = 0.05  # seconds between two looks at the ranks; a look costs some 10 us
_REPEAT = 0.3  # a signal again within this time is the same one: `timeout` signals the process and its group
_DRAIN = 0.002  # long enough for every store that a core had pending to be seen by the others
_REAP = 5.0  # after SIGKILL; only a process inside a hung driver or file system takes longer

# States of a rank in the shared memory.
_RUNNING, _DONE, _INTERRUPTED, _FAILED = range(4)
# Kinds of failure: the rank's own, a UserError, and the two ways in which the failure of another rank shows.
_OWN, _USER, _TIMED_OUT, _CUT_OFF = range(4)

# Words of 8 bytes: a header for the job, then one record per rank.
_REQUESTED, _LAST_TICK, _LEAVE, _HEADER = range(4)
_STATE, _STEP, _TICK, _BEAT, _KIND, _STATUS, _FAILED_AT, _LENGTH, _WORDS = range(9)
_TEXT = 1024  # bytes of failure text per rank

# What gloo, NCCL and the store say when another rank is gone or late; all are RuntimeErrors.
_COMMUNICATION = re.compile(
    r"gloo[/\\]|gloo connect|NCCL|TCPStore|monitoredBarrier|connection (closed|reset|refused)|broken pipe|"
    r"timed out waiting|wait timeout after|timed out after .* clients|timeout caused pair closure|"
    r"socket timeout",
    re.IGNORECASE,
)
_LATE = re.compile(r"timed out|timeout|monitoredBarrier", re.IGNORECASE)
_COMMUNICATION_TYPES = {"DistBackendError", "DistNetworkError", "DistStoreError"}

_PR_SET_PDEATHSIG = 1


class _Board:
    """Shared memory between the supervisor and its ranks; each word has one writer.

    Args:
        n: number of ranks.
    """

    def __init__(self, n: int) -> None:
        self._memory = mmap.mmap(-1, 8 * (_HEADER + n * _WORDS) + n * _TEXT)
        view = memoryview(self._memory)
        self.ints = view.cast("q")
        self.floats = view.cast("d")
        self._texts = 8 * (_HEADER + n * _WORDS)

    def at(self, rank: int, word: int) -> int:
        """The index of a rank's word in `ints` and `floats`."""
        return _HEADER + rank * _WORDS + word

    def write_text(self, rank: int, text: str) -> None:
        """Stores the start of a text, cut between two characters."""
        data = text.encode("utf-8", "backslashreplace")[:_TEXT].decode("utf-8", "ignore").encode()
        start = self._texts + rank * _TEXT
        self._memory[start : start + len(data)] = data
        self.ints[self.at(rank, _LENGTH)] = len(data)

    def read_text(self, rank: int) -> str:
        """The text that a rank stored."""
        start = self._texts + rank * _TEXT
        return self._memory[start : start + self.ints[self.at(rank, _LENGTH)]].decode()


class _Self:
    """A rank's own end of the board."""

    def __init__(self, board: _Board, rank: int) -> None:
        self._board = board
        self._rank = rank
        self._ints = board.ints
        self._floats = board.floats
        self._step = board.at(rank, _STEP)
        self._beat = board.at(rank, _BEAT)
        self._tick = board.at(rank, _TICK)
        self._ticks = 0

    def beat(self, step: int | None) -> int:
        self._floats[self._beat] = time.monotonic()
        if step is None:
            return 0
        self._ints[self._step] = step
        # The order matters: first the tick, then the look at the request. See _Job._ask_to_stop.
        self._ticks += 1
        self._ints[self._tick] = self._ticks
        requested = self._ints[_REQUESTED]
        if not requested:
            return 0
        while not self._ints[_LAST_TICK]:
            time.sleep(0.001)
        return requested if self._ticks >= self._ints[_LAST_TICK] else 0

    def requested(self) -> int:
        return self._ints[_REQUESTED]

    def finish(self, state: int, status: int = 0) -> None:
        self._ints[self._board.at(self._rank, _STATUS)] = status
        self._ints[self._board.at(self._rank, _STATE)] = state

    def fail(self, kind: int, status: int, text: str) -> None:
        at = self._board.at
        if self._ints[at(self._rank, _STATE)] != _RUNNING:
            return  # the first report is the nearest to the cause
        self._board.write_text(self._rank, text)
        self._ints[at(self._rank, _KIND)] = kind
        self._floats[at(self._rank, _FAILED_AT)] = time.monotonic()
        self.finish(_FAILED, status)

    def wait_for_leave(self) -> None:
        while not self._ints[_LEAVE]:
            time.sleep(0.01)


_self: _Self | None = None


def beat(step: int | None = None) -> int:
    """Tells the supervisor that this rank lives; costs well below 1 us, and does nothing when unsupervised.

    Call it with the number of each training step, just before the step. All ranks must make these calls
    equally often: they are the points at which they agree to stop. In validation, or in long work of one
    rank, call it without a number.

    Args:
        step: number of the step about to begin, used in messages; None for a mere sign of life.

    Returns:
        The signal that asked the job to stop if this rank must stop before this step, else 0. All ranks are
        told so at the same one of their calls.
    """
    return 0 if _self is None else _self.beat(step)


def stop_requested() -> int:
    """The signal that asked the job to stop, else 0; at once, so ranks may learn of it at different steps."""
    return 0 if _self is None else _self.requested()


def is_supervised() -> bool:
    """Whether this process is a rank under a supervisor."""
    return _self is not None


def report_failure(exc: BaseException) -> None:
    """Tells the supervisor why this rank fails; only the first report counts.

    `supervise` does this for what escapes from the worker. Calling it earlier (from a callback's
    ``on_exception``) keeps a slow or hanging teardown from hiding the cause.

    Args:
        exc: the exception, with its chain of causes.
    """
    if _self is None:
        return
    cause, kind = _diagnose(exc)
    message = " ".join(str(cause).split())
    if kind == _USER:
        _self.fail(kind, getattr(cause, "status", RUN_FAILED), message)
    else:
        _self.fail(kind, RUN_FAILED, f"{type(cause).__name__}\n{message}")


def _diagnose(exc: BaseException) -> tuple[BaseException, int]:
    """The exception of a chain that tells most, and the kind of failure it is.

    A failure that began as a communication error is secondary, whatever was raised while handling it. A
    communication error met while handling something else (a barrier in a teardown) is not the cause.
    """
    chain = [exc]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    if _is_communication(chain[-1]):
        return chain[-1], _TIMED_OUT if _LATE.search(str(chain[-1])) else _CUT_OFF
    cause = next(link for link in chain if not _is_communication(link))
    return cause, _USER if isinstance(cause, UserError) else _OWN


def is_secondary(exc: BaseException) -> bool:
    """Whether an exception shows no more than that another rank is gone or late."""
    return _diagnose(exc)[1] in (_TIMED_OUT, _CUT_OFF)


def _is_communication(exc: BaseException) -> bool:
    if not isinstance(exc, RuntimeError):
        return False
    return type(exc).__name__ in _COMMUNICATION_TYPES or _COMMUNICATION.search(str(exc)) is not None


def can_fork() -> bool:
    """Whether `supervise` can be used here; if not, leave the launch to Lightning.

    It takes Linux (on macOS the system's libraries do not survive a fork), the main thread (only it may set
    signal handlers) and a CUDA that is not initialised.
    """
    if sys.platform != "linux" or threading.current_thread() is not threading.main_thread():
        return False
    torch = sys.modules.get("torch")
    return torch is None or not torch.cuda.is_initialized()


def supervise(
    n: int,
    worker: Callable[[int], None],
    *,
    timeout: float | None = None,
    settle: float = 0.5,
    grace: float = 3.0,
    stop_timeout: float = 60.0,
) -> None:
    """Runs ``worker(rank)`` in n forked processes and returns when all of them have finished.

    Must be called from the main thread (see `can_fork`) of a process that has not used CUDA. A worker stops
    in answer to a signal by raising `Interrupted` once its checkpoint is written. SIGINT and SIGTERM have
    their default handlers in a rank; one that installs its own should only note the request, since cluster
    managers signal the ranks themselves too.

    A second signal, more than 0.3 s after the first, kills the ranks at once.

    Args:
        n: number of ranks, at least 1.
        worker: called with the rank; what it returns is ignored.
        timeout: the collectives' timeout in seconds. It is named when a rank has stalled, and it ends a job
            in which a rank falls silent when others have already finished, which no collective notices;
            with None that is not watched for.
        settle: seconds to wait after the first failure for a better explanation of it.
        grace: seconds from SIGTERM to SIGKILL for the survivors of a failure.
        stop_timeout: seconds that the ranks have to stop when asked.

    Raises:
        RunFailed: a rank died, exited early, raised, or stalled; the message names the first cause.
        UserError: a rank raised it; text and status are kept.
        Interrupted: SIGINT or SIGTERM stopped the job.
    """
    if n < 1:
        raise ValueError(f"n is {n}; a job has at least 1 rank")
    _Job(n, timeout, settle, grace, stop_timeout).run(worker)


@dataclass(slots=True)
class _Rank:
    """What the supervisor has seen of one rank."""

    rank: int
    pid: int = 0
    state: int = _RUNNING
    step: int = -1
    beat: float = 0.0
    kind: int = _OWN
    status: int = 0
    text: str = ""
    code: int | None = None  # once ended: the exit status, or minus the signal that killed it
    ended: float = 0.0  # when it failed or was seen to have ended
    stopped: bool = False  # suspended by a signal

    @property
    def alive(self) -> bool:
        return self.code is None

    @property
    def over(self) -> bool:
        """Nothing more is to come from this rank."""
        return not self.alive or self.state == _DONE

    @property
    def failed(self) -> bool:
        return self.state == _FAILED or (not self.alive and self.state == _RUNNING)

    @property
    def secondary(self) -> bool:
        """It failed by what another rank did or did not do."""
        return self.state == _FAILED and self.kind in (_TIMED_OUT, _CUT_OFF)

    @property
    def silent(self) -> bool:
        """It lives and has told of no end: among ranks that waited in vain, the one they waited for."""
        return self.alive and self.state == _RUNNING

    def after(self) -> str:
        return "before its first step" if self.step < 0 else f"after step {self.step}"

    def at(self) -> str:
        return "before its first step" if self.step < 0 else f"at step {self.step}"


class _Job:
    """The supervisor's side of a job; see `supervise` for the arguments."""

    def __init__(self, n: int, timeout: float | None, settle: float, grace: float, stop_timeout: float) -> None:
        self.ranks = [_Rank(rank) for rank in range(n)]
        self.board = _Board(n)
        self.timeout = timeout
        self.settle = settle
        self.grace = grace
        self.stop_timeout = stop_timeout
        self.signals: list[tuple[int, float]] = []
        self.suspend = False
        self.resumed = 0.0
        self.stop = 0
        self.stopping_since = 0.0

    def run(self, worker: Callable[[int], None]) -> None:
        # Documented there, though missing from its __all__.
        from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

        threads = _safe_threads(len(self.ranks))
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener, self._handlers():
            port = listener.getsockname()[1]
            try:
                self._start(worker, listener, threads)
                # Only now, since it runs a thread, which is not for forking. Ranks that come earlier are queued.
                store = TCPStore(
                    "127.0.0.1",
                    port,
                    is_master=True,
                    wait_for_workers=False,
                    master_listen_fd=listener.detach(),
                )
                verdict = self._watch()
            finally:
                self._end()
            del store
        if verdict is None and self.signals:
            # It came when all had finished; what the command meant to do next is not wanted all the same.
            verdict = Interrupted(self.signals[0][0])
        if verdict is not None:
            raise verdict

    @contextlib.contextmanager
    def _handlers(self) -> Iterator[None]:
        """Notes the signals to forward; what the caller ignores (`&` in a script does) stays ignored."""
        before: dict[signal.Signals, Any] = {}

        def take(signum: signal.Signals, handler: Any) -> None:
            old = signal.getsignal(signum)
            if old is not None:  # None: set outside Python, and could not be put back
                before[signum] = old
                signal.signal(signum, handler)

        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGTSTP):
            if signal.getsignal(signum) != signal.SIG_IGN:
                take(signum, self._on_signal)
        if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
            take(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would have the kernel throw exit statuses away
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
        for stream in (sys.stdout, sys.stderr):
            stream.flush()  # or each rank would write out the same buffered text again
        # Blocked until a rank has put its own handlers in place: the parent's would swallow a signal there.
        mask = set(signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGTSTP}))
        try:
            for rank in self.ranks:
                rank.beat = self.board.floats[self.board.at(rank.rank, _BEAT)] = time.monotonic()
                self.board.ints[self.board.at(rank.rank, _STEP)] = -1
                try:
                    pid = _fork()
                except OSError as error:
                    raise RunFailed(f"rank {rank.rank} could not be started: {error}") from None
                if pid == 0:
                    port = listener.getsockname()[1]
                    listener.close()
                    _child(self.board, rank.rank, len(self.ranks), worker, port, threads, supervisor, mask)
                rank.pid = pid
                with contextlib.suppress(OSError):  # the child does the same; whichever comes first
                    os.setpgid(pid, pid)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _watch(self) -> BaseException | None:
        """Waits for the end of the job; the error to raise, if any. Leaves it to `_end` to kill."""
        failed_since = None
        while True:
            time.sleep(_POLL)
            if self.suspend:
                self._suspend()
            now = time.monotonic()
            self._look(now)
            if self.signals and not self.stop:
                self._ask_to_stop(self.signals[0][0])
            if self._signalled_again():
                return Interrupted(self.stop)

            failed = [rank for rank in self.ranks if rank.failed]
            interrupted = [rank for rank in self.ranks if rank.state == _INTERRUPTED]
            if interrupted and not self.stop:
                # Someone signalled a single rank; a job stops as a whole.
                self._ask_to_stop(interrupted[0].status)
            if self.stop and all(rank.secondary for rank in failed):
                # Ranks that stop at different places cut each other off; that is no failure if one of
                # them could say that all was saved.
                if all(rank.over for rank in self.ranks):
                    return Interrupted(self.stop) if interrupted or not failed else self._cause()
                if now - self.stopping_since > self.stop_timeout:
                    return self._never_stopped()
                continue
            if failed:
                failed_since = failed_since or now
                if now - failed_since >= self._patience(failed) or all(rank.over for rank in self.ranks):
                    return self._cause()
            elif all(rank.over for rank in self.ranks):
                return None
            elif laggard := self._left_behind(now):
                return RunFailed(
                    f"rank {laggard.rank} has stalled {laggard.after()}{_suspended(laggard)}: "
                    f"it gave no sign of life for {self.timeout:g} s after another rank had finished"
                )

    def _look(self, now: float) -> None:
        """Updates what is known of each rank."""
        ints, floats, at = self.board.ints, self.board.floats, self.board.at
        for rank in self.ranks:
            if not rank.alive:
                continue
            # WNOWAIT keeps an ended process as a zombie: its id, and its group's, stay ours until _end.
            seen = os.waitid(os.P_PID, rank.pid, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
            rank.stopped = seen is not None and seen.si_code == os.CLD_STOPPED
            rank.step = ints[at(rank.rank, _STEP)]
            rank.beat = floats[at(rank.rank, _BEAT)]
            state = ints[at(rank.rank, _STATE)]
            if state != rank.state:
                rank.status = ints[at(rank.rank, _STATUS)]
                if state == _FAILED:
                    rank.kind = ints[at(rank.rank, _KIND)]
                    rank.ended = floats[at(rank.rank, _FAILED_AT)]
                    rank.text = self.board.read_text(rank.rank)
                rank.state = state
            if seen is None or rank.stopped:
                continue
            rank.code = seen.si_status if seen.si_code == os.CLD_EXITED else -seen.si_status
            rank.ended = rank.ended or now
            if rank.state == _RUNNING:
                self._judge_death(rank, now)

    def _judge_death(self, rank: _Rank, now: float) -> None:
        """Tells the deaths without a report apart that are not the rank's own doing."""
        if self.stop and rank.code == -self.stop:
            # The forwarded signal met a rank that had no handler yet: it obeyed, with nothing to save.
            rank.state, rank.status = _INTERRUPTED, self.stop
        elif rank.code == -signal.SIGABRT and self.timeout and now - rank.beat >= self.timeout:
            # NCCL's watchdog aborts the process that waited too long.
            rank.state, rank.kind, rank.text = _FAILED, _TIMED_OUT, "aborted\nwaiting in a collective"

    def _ask_to_stop(self, signum: int) -> None:
        """Requests a stop before the same tick in every rank, and forwards the signal, once.

        A rank stores its tick and then looks at the request. So, once the request has been visible for a
        moment, a rank that passed without seeing it shows the tick it passed; at its next tick it sees the
        request and waits for the choice. One more than the highest tick is therefore a step that nobody has
        entered.
        """
        self.stop = signum
        self.stopping_since = time.monotonic()
        ints, at = self.board.ints, self.board.at
        ints[_REQUESTED] = signum
        time.sleep(_DRAIN)
        ints[_LAST_TICK] = 1 + max(ints[at(rank.rank, _TICK)] for rank in self.ranks)
        for rank in self.ranks:
            if rank.silent:
                os.kill(rank.pid, signum)

    def _signalled_again(self) -> bool:
        return any(when - self.signals[0][1] > _REPEAT for _, when in self.signals)

    def _suspend(self) -> None:
        """Ctrl-Z: halts the ranks, then this process as if it had no handler; wakes them when woken."""
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

    def _patience(self, failed: Sequence[_Rank]) -> float:
        """How long to wait for a better explanation than the failures so far."""
        puzzling = all(rank.secondary for rank in failed)
        silent = sum(rank.silent for rank in self.ranks)
        # One rank silent, the others out of time: clear. Else a rank may yet be about to report its failure.
        if puzzling and (silent > 1 or all(rank.kind == _CUT_OFF for rank in failed)):
            return 3 * self.settle
        return self.settle

    def _left_behind(self, now: float) -> _Rank | None:
        """A rank that has been silent for the timeout since another one finished."""
        finished = [rank.beat for rank in self.ranks if rank.state == _DONE]
        if not finished or self.timeout is None:
            return None
        since = max(*finished, self.resumed)
        # Later than a collective would time out: that says more.
        limit = self.timeout + 3 * self.settle
        late = [rank for rank in self.ranks if rank.silent and now - max(rank.beat, since) > limit]
        return min(late, key=lambda rank: rank.beat, default=None)

    def _never_stopped(self) -> RunFailed:
        late = [rank.rank for rank in self.ranks if not rank.over]
        return RunFailed(
            f"{_names(late)} did not stop within {self.stop_timeout:g} s of {_signal_name(self.stop)} "
            "and had to be killed; the last checkpoint stands"
        )

    def _cause(self) -> UserError:
        error = _first_cause(self.ranks, self.timeout)
        if self.stop and type(error) is RunFailed:
            return RunFailed(f"{error}, while stopping on {_signal_name(self.stop)}")
        return error

    def _end(self) -> None:
        """Ends every process of the job, and returns when they are gone."""
        self.board.ints[_LEAVE] = 1
        started = [rank for rank in self.ranks if rank.pid]
        known = len(self.signals)
        self._look_at_ends(started)
        again = self._signalled_again()
        for rank in started:
            # A rank that has stalled or was told to stop long ago will not answer SIGTERM.
            if rank.alive and rank.state == _RUNNING and not (rank.stopped or again):
                os.kill(rank.pid, signal.SIGTERM)
        deadline = time.monotonic() + (0 if again else self.grace)
        while any(rank.alive and not rank.stopped for rank in started) and time.monotonic() < deadline:
            time.sleep(0.01)
            self._look_at_ends(started)
            if len(self.signals) > known:
                break  # someone is impatient
        self._signal_groups(signal.SIGKILL)
        deadline = time.monotonic() + _REAP
        while started and time.monotonic() < deadline:
            started = [rank for rank in started if os.waitpid(rank.pid, os.WNOHANG)[0] == 0]
            if started:
                time.sleep(0.005)

    def _look_at_ends(self, started: Sequence[_Rank]) -> None:
        for rank in started:
            if rank.alive and os.waitid(os.P_PID, rank.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                rank.code = 0


def _first_cause(ranks: Sequence[_Rank], timeout: float | None = None) -> UserError:
    """The error that says why a job failed, from what was seen of its ranks.

    A kill outranks an early exit, and that an exception, unless it came clearly later. Failed communication
    counts only if there is nothing else; then the rank that the others waited for has stalled.
    """
    # A death is seen up to a poll after it happened, what it did to others at once: hence the head starts.
    candidates: list[tuple[float, _Rank, UserError]] = []
    for rank in ranks:
        if rank.state == _FAILED and not rank.secondary:
            candidates.append((rank.ended, rank, _raised(rank, ranks)))
        elif rank.state == _RUNNING and rank.code is not None and rank.code < 0:
            text = f"rank {rank.rank} was killed by {_signal_name(-rank.code)} {rank.after()}"
            candidates.append((rank.ended - 0.2, rank, RunFailed(text)))
        elif rank.state == _RUNNING and rank.code is not None:
            text = f"rank {rank.rank} exited with status {rank.code} {rank.after()}, before the run had ended"
            candidates.append((rank.ended - 0.1, rank, RunFailed(text)))
    if candidates:
        return min(candidates, key=lambda candidate: (candidate[0], candidate[1].rank))[2]

    limit = f" for {timeout:g} s" if timeout else " until the collective timed out"
    late = [rank for rank in ranks if rank.state == _FAILED and rank.kind == _TIMED_OUT]
    silent = [rank for rank in ranks if rank.silent]
    done = [rank for rank in ranks if rank.state == _DONE]
    if late and silent:
        # Suspended, else the furthest behind, else the longest silent.
        stalled = min(silent, key=lambda rank: (not rank.stopped, rank.step, rank.beat))
        others = "the others" if len(ranks) > 2 else f"rank {late[0].rank}"
        return RunFailed(
            f"rank {stalled.rank} has stalled {stalled.after()}{_suspended(stalled)}: {others} waited for it{limit}"
        )
    if late and done:
        return RunFailed(
            f"rank {done[0].rank} had finished {done[0].after()}, but rank {late[0].rank} waited for it "
            f"in a collective {late[0].at()}{limit}"
        )
    if late:
        waiting = _names([rank.rank for rank in late])
        return RunFailed(
            f"{waiting} waited {late[0].at()}{limit} in a collective that other ranks entered too late or not at all"
        )
    rank = min((rank for rank in ranks if rank.secondary), key=lambda rank: rank.ended)
    return RunFailed(f"rank {rank.rank} lost its connection {rank.at()}: {rank.text.partition(chr(10))[2]}")


def _raised(rank: _Rank, ranks: Sequence[_Rank]) -> UserError:
    if rank.kind == _USER:
        return RunFailed(rank.text) if rank.status == RUN_FAILED else UserError(rank.text, rank.status)
    name, _, message = rank.text.partition("\n")
    same = len(ranks) > 1 and all(other.text == rank.text and other.step == rank.step for other in ranks)
    who = "every rank" if same else f"rank {rank.rank}"
    return RunFailed(f"{who} raised {name} {rank.at()}" + (f": {message}" if message else ""))


def _suspended(rank: _Rank) -> str:
    return " (suspended by a signal)" if rank.stopped else ""


def _names(ranks: Sequence[int]) -> str:
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def _signal_name(signum: int) -> str:
    try:
        return signal.Signals(signum).name
    except ValueError:  # a real-time signal
        return f"signal {signum}"


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 and later warn if any thread exists. The idle BLAS threads of NumPy and SciPy always do,
        # and OpenBLAS ends them before a fork and starts them anew after it.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        return os.fork()


def _safe_threads(n: int) -> int:
    """The threads each of n ranks shall use; 0 leaves what OMP_NUM_THREADS set.

    GNU OpenMP does not survive a fork: once this process has run an operation on several threads, a rank that
    tries the same waits for ever, and no collective would notice. One thread is always safe.
    """
    torch = sys.modules.get("torch")
    chosen = "OMP_NUM_THREADS" in os.environ
    threads = max(1, len(os.sched_getaffinity(0)) // n)
    if torch is None:
        return 0 if chosen else threads
    if chosen:
        threads = torch.get_num_threads()
    if threads == 1 or threads_survive(threads):
        return 0 if chosen else threads
    warnings.warn(
        "this process has run torch on several threads, which a fork breaks: each rank gets one thread",
        UserWarning,
        stacklevel=4,
    )
    return 1


def threads_survive(threads: int, patience: float = 2.0) -> bool:
    """Whether a forked process can still run torch on several threads, tried in one."""
    pid = _fork()
    if pid == 0:
        try:
            torch = sys.modules["torch"]
            torch.set_num_threads(threads)
            torch.zeros(1 << 18).exp_()  # above torch's grain of 32768 elements per thread
        finally:
            os._exit(0)
    deadline = time.monotonic() + patience
    try:
        while time.monotonic() < deadline:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return True
            time.sleep(0.002)
        return False
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _child(
    board: _Board,
    rank: int,
    n: int,
    worker: Callable[[int], None],
    port: int,
    threads: int,
    supervisor: int,
    mask: set[int],
) -> NoReturn:
    """The life of a rank. It leaves by os._exit: nothing of the parent's (atexit, finally, pytest) runs."""
    global _self
    status = RUN_FAILED
    try:
        die_with(supervisor)
        _self = _Self(board, rank)
        _settle_in(rank, n, port, threads, mask)
        worker(rank)
        # Asked to stop now, there is nothing left to stop.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _flush()
        _self.finish(_DONE)
        # Leaving closes its connections, from which the others may still have to read.
        _self.wait_for_leave()
        status = 0
    except BaseException as exc:
        status = _report(exc)
    finally:
        try:
            _flush()
        finally:  # whatever a late signal raised
            os._exit(status)


def _report(exc: BaseException) -> int:
    """Tells the supervisor how the worker ended; the exit status."""
    assert _self is not None
    # The report is not to be cut short.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    if isinstance(exc, Interrupted | KeyboardInterrupt):
        signum = exc.signum if isinstance(exc, Interrupted) else signal.SIGINT
        _flush()
        _self.finish(_INTERRUPTED, signum)
        return 128 + signum
    if isinstance(exc, SystemExit) and (exc.code is None or isinstance(exc.code, int)):
        return (exc.code or 0) & 0xFF  # an early exit, reported by its status
    report_failure(exc)
    if os.environ.get("PLCOURSE_DEBUG") == "1":
        # One write, so that the ranks' tracebacks do not mingle.
        sys.stderr.write("".join(traceback.format_exception(exc)))
    return exc.status if isinstance(exc, UserError) else RUN_FAILED


def _settle_in(rank: int, n: int, port: int, threads: int, mask: set[int]) -> None:
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    for signum, default in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGTSTP, signal.SIG_DFL),
    ):
        if signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, default)
    signal.set_wakeup_fd(-1)  # an event loop of the parent's is not to hear of our signals
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # a background group may write even under `stty tostop`
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    # A background group that reads the terminal is suspended; a rank has nothing to read there.
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)

    for name in ("RANK", "GROUP_RANK"):
        os.environ.pop(name, None)  # left over from another launcher, they would contradict LOCAL_RANK
    os.environ.update(
        LOCAL_RANK=str(rank),
        NODE_RANK="0",
        WORLD_SIZE=str(n),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",  # the store is served already, for rank 0 too
    )
    if "lo" in (name for _, name in socket.if_nameindex()):
        # By default gloo takes the host name's address, which firewalls and missing DNS entries break.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(threads)
    if ranks := sys.modules.get("lightning_utilities.core.rank_zero"):
        ranks.rank_zero_only.rank = rank  # set at the import, in the parent, where every rank would be 0


def die_with(supervisor: int) -> None:
    """Has this process killed when the supervisor is gone."""
    if not _kill_on_parent_death():
        threading.Thread(target=_outlive_not, args=(supervisor,), daemon=True).start()
    if os.getppid() != supervisor:  # it died before the line above
        os.kill(os.getpid(), signal.SIGKILL)


def _kill_on_parent_death() -> bool:
    """Asks the kernel for it; False where the kernel does not offer it (a sandbox without prctl)."""
    with contextlib.suppress(OSError, AttributeError):
        return ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)) == 0
    return False


def _outlive_not(supervisor: int) -> None:
    while os.getppid() == supervisor:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a closed terminal or pipe
            stream.flush()
