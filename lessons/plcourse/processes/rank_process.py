"""The rank's side of a supervised job: runs the worker, and reports to the supervisor.

Outside a supervised rank, `beat`, `stop_requested` and `report_failure` do nothing. Needs no torch.
"""

import contextlib
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from plcourse.errors import RUN_FAILED, Interrupted, UserError, place
from plcourse.processes.diagnosis import diagnose
from plcourse.processes.forking import die_with
from plcourse.processes.shared_state import Failure, RankReporter, SharedState, State

_reporter: RankReporter | None = None


def beat(step: int | None = None) -> int:
    """Tells the supervisor that this rank is alive; takes well below 1 us.

    All ranks must call it equally often with a step: the ranks agree to stop at one of these calls. In validation, or
    in long work of a single rank, call it without one.

    Args:
        step: number of the step that is about to begin, for messages; None for a mere sign of life.

    Returns:
        The signal that asked the job to stop if this rank must stop before this step, otherwise 0; at the same call on
        all ranks.
    """
    return 0 if _reporter is None else _reporter.beat(step)


def stop_requested() -> int:
    """Returns the signal that asked the job to stop, 0 for none; ranks may see it at different steps."""
    return 0 if _reporter is None else _reporter.requested()


def is_supervised() -> bool:
    """Whether this process is a rank under a supervisor."""
    return _reporter is not None


def report_failure(error: BaseException) -> None:
    """Tells the supervisor why this rank fails; only the first report counts.

    The supervisor learns of every exception that escapes from the worker. Call this earlier (from a callback's
    ``on_exception``) to keep a slow or hanging teardown from hiding the cause.
    """
    if _reporter is None:
        return
    cause, failure = diagnose(error)
    message = " ".join(str(cause).split())
    if failure == Failure.USER_ERROR:
        _reporter.fail(failure, getattr(cause, "status", RUN_FAILED), message)
    else:
        _reporter.fail(failure, RUN_FAILED, f"{type(cause).__name__}\n{place(cause)}{message}")


def run_rank(
    shared: SharedState,
    rank: int,
    worker: Callable[[int], None],
    port: int,
    threads: int,
    supervisor: int,
    mask: set[int],
) -> NoReturn:
    """Runs ``worker(rank)`` in a process that was just forked, reports how it ended, and exits.

    It exits with `os._exit`, so that nothing of the parent's (atexit, finally, pytest) runs here. ``port`` is that of
    the store, ``threads`` the number of torch's (0 for no change), ``supervisor`` the parent's process id, and ``mask``
    the signals to block from now on; the caller has blocked more of them for the fork.
    """
    global _reporter
    status = RUN_FAILED
    try:
        die_with(supervisor)
        _reporter = RankReporter(shared, rank)
        _detach_from_parent(mask)
        _set_environment(rank, len(shared.ranks), port, threads)
        worker(rank)
        # A signal that comes now has nothing left to stop.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        flush_output()
        _reporter.finish(State.DONE)
        # Exiting closes connections from which other ranks may still have to read.
        _reporter.wait_for_leave()
        status = 0
    except BaseException as error:
        status = _report(error, _reporter)
    finally:
        try:
            flush_output()
        finally:  # whatever a late signal raised
            os._exit(status)


def _report(error: BaseException, reporter: RankReporter | None) -> int:
    """Tells the supervisor how the worker ended; returns the exit status."""
    assert reporter is not None
    # No signal may interrupt the report.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    if isinstance(error, Interrupted | KeyboardInterrupt):
        signum = error.signum if isinstance(error, Interrupted) else signal.SIGINT
        flush_output()
        reporter.finish(State.INTERRUPTED, signum)
        return 128 + signum
    if isinstance(error, SystemExit) and (error.code is None or isinstance(error.code, int)):
        return (error.code or 0) & 0xFF  # an early exit, which the supervisor reports by its status
    report_failure(error)
    if os.environ.get("PLCOURSE_DEBUG") == "1":
        # A single write keeps the tracebacks of the ranks apart.
        sys.stderr.write("".join(traceback.format_exception(error)))
    return error.status if isinstance(error, UserError) else RUN_FAILED


def _detach_from_parent(mask: set[int]) -> None:
    """Gives the rank a process group, default signal handlers and an empty standard input."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    defaults = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGTSTP: signal.SIG_DFL,
    }
    for signum, default in defaults.items():
        if signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, default)
    signal.set_wakeup_fd(-1)  # the parent's event loop must not receive our signals
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # a background group may write even under `stty tostop`
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    # The terminal suspends a background group that reads from it, and a rank has nothing to read there.
    with contextlib.suppress(OSError):
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)


def _set_environment(rank: int, n: int, port: int, threads: int) -> None:
    """Sets the variables of Lightning's ``LightningEnvironment``, which launches nothing where LOCAL_RANK is set."""
    for name in ("RANK", "GROUP_RANK"):
        os.environ.pop(name, None)  # left by another launcher, they would contradict LOCAL_RANK
    os.environ.update(
        LOCAL_RANK=str(rank),
        NODE_RANK="0",
        WORLD_SIZE=str(n),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        TORCHELASTIC_USE_AGENT_STORE="True",  # the supervisor serves the store, also for rank 0
    )
    if "lo" in (name for _, name in socket.if_nameindex()):
        # By default gloo takes the host name's address, which firewalls and missing DNS entries break.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        if torch := sys.modules.get("torch"):
            torch.set_num_threads(threads)
    if rank_zero := sys.modules.get("lightning_utilities.core.rank_zero"):
        rank_zero.rank_zero_only.rank = rank  # the import in the parent has set it to 0


def flush_output() -> None:
    """Writes out what is buffered for standard output and error, if they are still open."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, or None
            stream.flush()
