"""Shared memory through which ranks report to their supervisor and learn when to stop. Needs no torch."""

import mmap
import time
from ctypes import Structure, c_char, c_double, c_int64, sizeof
from enum import IntEnum

_TEXT_BYTES = 1024  # of a rank's failure text


class State(IntEnum):
    """How far a rank has come."""

    RUNNING = 0
    DONE = 1
    INTERRUPTED = 2
    FAILED = 3


class Failure(IntEnum):
    """Why a rank failed. The last two are secondary: they show that another rank is late or gone."""

    OWN = 0
    USER_ERROR = 1
    TIMED_OUT = 2
    CUT_OFF = 3


class _Job(Structure):
    """The supervisor's part, written only by the supervisor."""

    _fields_ = [
        ("requested", c_int64),  # the signal that asked the job to stop, 0 for none
        ("last_tick", c_int64),  # the tick before which every rank stops, 0 while it is not chosen
        ("leave", c_int64),  # whether finished ranks may exit
    ]


class _Rank(Structure):
    """One rank's part, written only by that rank once it runs."""

    _fields_ = [
        ("state", c_int64),
        ("step", c_int64),  # -1 before the first step
        ("tick", c_int64),  # number of steps that this rank has announced
        ("beat", c_double),  # time of the last sign of life
        ("failure", c_int64),
        ("status", c_int64),  # exit status, or the signal that interrupted the rank
        ("failed_at", c_double),
        ("text", c_char * _TEXT_BYTES),
    ]


class SharedState:
    """Shared memory between a supervisor, which writes `job`, and its n forked ranks, which write a record each."""

    def __init__(self, n: int) -> None:
        class Layout(Structure):
            _fields_ = [("job", _Job), ("ranks", _Rank * n)]

        layout = Layout.from_buffer(mmap.mmap(-1, sizeof(Layout)))
        self.job = layout.job
        self.ranks = [layout.ranks[rank] for rank in range(n)]
        for record in self.ranks:
            record.step = -1


class RankReporter:
    """A rank's access to the shared state, which was created before the fork."""

    def __init__(self, shared: SharedState, rank: int) -> None:
        self._job = shared.job
        self._record = shared.ranks[rank]
        self._ticks = 0

    def beat(self, step: int | None) -> int:
        """Reports a sign of life; see `plcourse.processes.rank_process.beat`."""
        job, record = self._job, self._record
        record.beat = time.monotonic()
        if step is None:
            return 0
        record.step = step
        # The order matters: write the tick first, then read the request. See Supervisor._ask_to_stop.
        self._ticks += 1
        record.tick = self._ticks
        if not (requested := job.requested):
            return 0
        while not job.last_tick:
            time.sleep(0.001)
        return requested if self._ticks >= job.last_tick else 0

    def requested(self) -> int:
        """Returns the signal that asked the job to stop, 0 for none."""
        return self._job.requested

    def finish(self, state: State, status: int = 0) -> None:
        """Reports the end of the rank's work."""
        self._record.status = status
        self._record.state = state

    def fail(self, failure: Failure, status: int, text: str) -> None:
        """Reports a failure, unless the rank has already reported its end: the first report is closest to the cause."""
        if self._record.state != State.RUNNING:
            return
        encoded = text.encode("utf-8", "backslashreplace")[:_TEXT_BYTES]
        self._record.text = encoded.decode("utf-8", "ignore").encode()  # cuts no character in two
        self._record.failure = failure
        self._record.failed_at = time.monotonic()
        self.finish(State.FAILED, status)

    def wait_for_leave(self) -> None:
        """Waits until the supervisor lets finished ranks exit."""
        while not self._job.leave:
            time.sleep(0.01)
