"""Finds the first cause of a failed job from what its ranks reported and how they ended. Needs no torch.

When one rank dies, the others fail too (gloo's "Connection closed by peer"). Such secondary failures are reported only
if nothing else explains the end of the job.
"""

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from plcourse.errors import RUN_FAILED, RunFailed, UserError
from plcourse.processes.shared_state import Failure, State

# What gloo, NCCL and the store say when another rank is gone or late; all are RuntimeErrors.
_COMMUNICATION = re.compile(
    r"gloo[/\\]|gloo connect|NCCL|TCPStore|monitoredBarrier|connection (closed|reset|refused)|broken pipe|"
    r"timed out waiting|wait timeout after|timed out after .* clients|timeout caused pair closure|"
    r"socket timeout",
    re.IGNORECASE,
)
_LATE = re.compile(r"timed out|timeout|monitoredBarrier", re.IGNORECASE)
_COMMUNICATION_TYPES = {"DistBackendError", "DistNetworkError", "DistStoreError"}
_SECONDARY = (Failure.TIMED_OUT, Failure.CUT_OFF)


def diagnose(error: BaseException) -> tuple[BaseException, Failure]:
    """Returns the exception of a chain that explains it best, and the kind of failure that it is.

    A failure that began as a communication error is secondary, whatever was raised while handling it. A communication
    error that was raised while handling another error (a barrier in a teardown) is not the cause.
    """
    chain = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    if _is_communication(chain[-1]):
        return chain[-1], Failure.TIMED_OUT if _LATE.search(str(chain[-1])) else Failure.CUT_OFF
    cause = next(link for link in chain if not _is_communication(link))
    return cause, Failure.USER_ERROR if isinstance(cause, UserError) else Failure.OWN


def is_secondary(error: BaseException) -> bool:
    """Whether an exception shows only that another rank is gone or late."""
    return diagnose(error)[1] in _SECONDARY


def _is_communication(error: BaseException) -> bool:
    if not isinstance(error, RuntimeError):
        return False
    return type(error).__name__ in _COMMUNICATION_TYPES or _COMMUNICATION.search(str(error)) is not None


@dataclass(slots=True)
class RankStatus:
    """What the supervisor has seen of one rank."""

    rank: int
    pid: int = 0
    state: State = State.RUNNING
    step: int = -1
    beat: float = 0.0
    failure: Failure = Failure.OWN
    status: int = 0
    text: str = ""
    code: int | None = None  # once the process has ended: its exit status, or minus the signal that killed it
    ended: float = 0.0  # when the rank failed, or was seen to have ended
    suspended: bool = False  # by a signal

    @property
    def alive(self) -> bool:
        """Whether the process exists."""
        return self.code is None

    @property
    def over(self) -> bool:
        """Whether nothing more is to come from this rank."""
        return not self.alive or self.state == State.DONE

    @property
    def failed(self) -> bool:
        """Whether it reported a failure, or ended without a report."""
        return self.state == State.FAILED or (not self.alive and self.state == State.RUNNING)

    @property
    def secondary(self) -> bool:
        """Whether it failed because of another rank."""
        return self.state == State.FAILED and self.failure in _SECONDARY

    @property
    def silent(self) -> bool:
        """Whether it lives and has not reported its end: the others may be waiting for it."""
        return self.alive and self.state == State.RUNNING

    @property
    def after(self) -> str:
        """How far a rank came that stopped between steps."""
        return "before its first step" if self.step < 0 else f"after step {self.step}"

    @property
    def at(self) -> str:
        """How far a rank came that failed in a step."""
        return self.after.replace("after", "at")

    @property
    def stalled(self) -> str:
        """Which rank has stalled and where, and whether it was suspended."""
        suspended = " (suspended by a signal)" if self.suspended else ""
        return f"rank {self.rank} has stalled {self.after}{suspended}"


def first_cause(ranks: Sequence[RankStatus], timeout: float | None = None) -> UserError:
    """Returns the error that explains why a job failed.

    A kill outranks an early exit, which outranks an exception, unless it came clearly later. Failed communication
    counts only if there is nothing else; then the rank that the others waited for has stalled.
    """
    # The supervisor notices a death up to one poll late, but its effects on other ranks at once: hence the head starts.
    candidates: list[tuple[float, int, UserError]] = []
    for rank in ranks:
        if rank.state == State.FAILED and not rank.secondary:
            candidates.append((rank.ended, rank.rank, _raised(rank, ranks)))
        elif rank.state == State.RUNNING and rank.code is not None and rank.code < 0:
            text = f"rank {rank.rank} was killed by {signal_name(-rank.code)} {rank.after}"
            candidates.append((rank.ended - 0.2, rank.rank, RunFailed(text)))
        elif rank.state == State.RUNNING and rank.code is not None:
            text = f"rank {rank.rank} exited with status {rank.code} {rank.after}, before the run had ended"
            candidates.append((rank.ended - 0.1, rank.rank, RunFailed(text)))
    if candidates:
        return min(candidates, key=lambda candidate: candidate[:2])[2]

    limit = f" for {timeout:g} s" if timeout else " until the collective timed out"
    late = [rank for rank in ranks if rank.state == State.FAILED and rank.failure == Failure.TIMED_OUT]
    silent = [rank for rank in ranks if rank.silent]
    done = [rank for rank in ranks if rank.state == State.DONE]
    if late and silent:
        # A suspended rank, otherwise the one that is furthest behind, otherwise the one that was silent longest.
        stalled = min(silent, key=lambda rank: (not rank.suspended, rank.step, rank.beat))
        others = "the others" if len(ranks) > 2 else f"rank {late[0].rank}"
        return RunFailed(f"{stalled.stalled}: {others} waited for it{limit}")
    if late and done:
        return RunFailed(
            f"rank {done[0].rank} had finished {done[0].after}, but rank {late[0].rank} waited for it "
            f"in a collective {late[0].at}{limit}"
        )
    if late:
        waiting = rank_names([rank.rank for rank in late])
        return RunFailed(
            f"{waiting} waited {late[0].at}{limit} in a collective that other ranks entered too late or not at all"
        )
    rank = min((rank for rank in ranks if rank.secondary), key=lambda rank: rank.ended)
    return RunFailed(f"rank {rank.rank} lost its connection {rank.at}: {rank.text.partition(chr(10))[2]}")


def _raised(rank: RankStatus, ranks: Sequence[RankStatus]) -> UserError:
    if rank.failure == Failure.USER_ERROR:
        return RunFailed(rank.text) if rank.status == RUN_FAILED else UserError(rank.text, rank.status)
    name, _, message = rank.text.partition("\n")
    same = len(ranks) > 1 and all(other.text == rank.text and other.step == rank.step for other in ranks)
    who = "every rank" if same else f"rank {rank.rank}"
    return RunFailed(f"{who} raised {name} {rank.at}" + (f": {message}" if message else ""))


def rank_names(ranks: Sequence[int]) -> str:
    """Returns ``rank 3``, or ``ranks 0, 2 and 3``."""
    if len(ranks) == 1:
        return f"rank {ranks[0]}"
    return f"ranks {', '.join(map(str, ranks[:-1]))} and {ranks[-1]}"


def signal_name(signum: int) -> str:
    """Returns a signal's name; real-time signals have only a number."""
    try:
        return signal.Signals(signum).name
    except ValueError:
        return f"signal {signum}"
