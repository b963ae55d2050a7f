"""Forks processes that have imported torch: where that is possible, and with how many threads."""

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
import warnings

_PR_SET_PDEATHSIG = 1


def can_fork() -> bool:
    """Whether this process can fork ranks and workers; if not, Lightning must launch them.

    Forking needs Linux (the system libraries of macOS do not survive a fork) and CUDA that is not initialized.
    """
    if sys.platform != "linux":
        return False
    torch = sys.modules.get("torch")
    return torch is None or not torch.cuda.is_initialized()


def fork() -> int:
    """Calls `os.fork` without Python's warning about threads."""
    with warnings.catch_warnings():
        # Python 3.12 and later warn if any thread exists. The idle BLAS threads of NumPy and SciPy always exist;
        # OpenBLAS stops them before a fork and restarts them after it.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        return os.fork()


def threads_per_rank(n: int) -> int:
    """Returns the number of threads for each of n forked ranks; 0 if OMP_NUM_THREADS has set it.

    GNU OpenMP does not survive a fork: once this process has run an operation on several threads, a rank that does
    the same waits forever, and no collective notices. A single thread is always safe.
    """
    torch = sys.modules.get("torch")
    chosen = "OMP_NUM_THREADS" in os.environ
    threads = max(1, len(os.sched_getaffinity(0)) // n)
    if torch is None:
        return 0 if chosen else threads
    if chosen:
        threads = torch.get_num_threads()
    kept = threads_after_fork(threads, "rank", stacklevel=5)
    return 0 if chosen and kept == threads else kept


def threads_after_fork(threads: int, of: str, stacklevel: int) -> int:
    """Returns the number of threads, or 1, with a warning, if torch's threads have been used and would hang."""
    if threads == 1 or threads_survive(threads):
        return threads
    lost = "this process has run torch on several threads, which do not survive a fork"
    warnings.warn(f"{lost}: each {of} gets one thread", UserWarning, stacklevel)
    return 1


def threads_survive(threads: int, patience: float = 2.0) -> bool:
    """Whether a forked process can still run torch on several threads; forks one to find out."""
    pid = fork()
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


def die_with(parent: int) -> None:
    """Makes the kernel kill this process when its parent is gone; a thread watches where the kernel cannot."""
    if not _kill_on_parent_death():
        threading.Thread(target=_watch_parent, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it died before the line above
        os.kill(os.getpid(), signal.SIGKILL)


def _kill_on_parent_death() -> bool:
    """Asks the kernel; returns False where it does not offer this (a sandbox without prctl)."""
    with contextlib.suppress(OSError, AttributeError):
        return ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL)) == 0
    return False


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.killpg(0, signal.SIGKILL)
