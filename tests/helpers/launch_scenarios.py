"""The jobs that test_supervisor.py supervises, and the server that starts them.

Run as a script, it imports torch once and then forks one supervising process per request, a JSON line
``{"job": ..., "folder": ..., ...}`` on standard input. It answers with the process id and, later, the status.
"""

import atexit
import ctypes
import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from lightning_utilities.core.rank_zero import rank_zero_only
from torch.utils.data import DataLoader

from launch_faults import FAULTS, TIMEOUT, Endless, join_gloo, note
from plcourse.errors import Interrupted, UserError
from plcourse.processes import forking
from plcourse.processes.rank_process import beat, stop_requested
from plcourse.processes.supervisor import supervise


def training(folder: Path, n: int, faults: dict[str, str]) -> None:
    """Six steps with one collective each; some ranks meet a fault at step 3."""

    def worker(rank: int) -> None:
        join_gloo(rank)
        for step in range(6):
            beat(step)
            if step == 3 and (fault := faults.get(str(rank))):
                FAULTS[fault]()
                if fault == "return":
                    return
            dist.all_reduce(torch.ones(10))
        note(folder, rank, "finished")

    supervise(n, worker, timeout=TIMEOUT)


def joining(folder: Path, faults: dict[str, str]) -> None:
    """A fault while the others wait for the rank to join."""

    def worker(rank: int) -> None:
        FAULTS[faults.get(str(rank), "return")]()
        join_gloo(rank)

    supervise(2, worker, timeout=TIMEOUT)


def silent_end(folder: Path) -> None:
    """Rank 0 finishes; rank 1 never does, though no collective waits for it."""

    def worker(rank: int) -> None:
        beat(4)
        if rank:
            time.sleep(100)

    supervise(2, worker, timeout=TIMEOUT)


def slow_end(folder: Path) -> None:
    """Rank 0 works on alone for longer than the timeout, and says so."""

    def worker(rank: int) -> None:
        beat(4)
        if not rank:
            for _ in range(6):
                time.sleep(TIMEOUT / 5)
                beat()

    supervise(2, worker, timeout=TIMEOUT)


def late_store(folder: Path) -> None:
    """Rank 0, which holds the store of a job without a supervisor, is done before the others use it."""

    def worker(rank: int) -> None:
        join_gloo(rank)
        if rank:
            time.sleep(0.5)
            store = dist.distributed_c10d._get_default_store()
            store.set("late", "yes")
            note(folder, rank, store.get("late").decode())
            dist.new_group([1])

    supervise(2, worker, timeout=TIMEOUT)


def surroundings(folder: Path) -> None:
    def worker(rank: int) -> None:
        names = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "GLOO_SOCKET_IFNAME")
        seen = {
            **{name: os.environ.get(name) for name in names},
            "lightning's rank": getattr(rank_zero_only, "rank", None),
            "threads": torch.get_num_threads() == max(1, len(os.sched_getaffinity(0)) // 2),
            "stdin": os.read(0, 10).decode(),
            "group": os.getpgid(0) == os.getpid(),
            "SIGTERM": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
            "SIGINT": signal.getsignal(signal.SIGINT) == signal.default_int_handler,
        }
        note(folder, rank, json.dumps(seen))
        print(f"rank {rank} was here")

    os.environ["RANK"] = "7"
    vars(rank_zero_only)["rank"] = 0  # as Lightning's import does in the parent
    atexit.register(print, "a rank ran the parent's atexit")
    signal.signal(signal.SIGTERM, lambda *_: None)
    before = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGTSTP)]
    print("said once", end=" ")  # stays in the buffer at the fork
    supervise(2, worker)
    after = [signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGTSTP)]
    assert before == after
    print("and at last")


def stepping(folder: Path, stop_timeout: float = 60, obey: bool = True) -> None:
    """Endless steps without a collective: nothing but `beat` keeps the ranks' stops together."""

    def worker(rank: int) -> None:
        def count(signum: int, _: object) -> None:
            note(folder, rank, f"signal {signum}")

        signal.signal(signal.SIGTERM, count)
        signal.signal(signal.SIGINT, count)
        step = 0
        while True:
            signum = beat(step)
            if signum and obey:
                # Late, so that signals sent twice would still be counted.
                time.sleep(0.2)
                note(folder, rank, f"stopped before {step}, asked by {stop_requested()}")
                raise Interrupted(signum)
            if step == 3:
                note(folder, rank, os.getpid())
                note(folder, rank, "ready")
            time.sleep(0.01 * (1 + rank))
            step += 1

    supervise(2, worker, stop_timeout=stop_timeout, grace=0.5)


def fast_stepping(folder: Path) -> None:
    """Steps with a collective, as fast as they go: stopping apart would leave a rank waiting."""

    def worker(rank: int) -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)
        join_gloo(rank)
        step = 0
        while not (signum := beat(step)):
            if step == 3:
                note(folder, rank, "ready")
            dist.all_reduce(torch.ones(1))
            step += 1
        dist.barrier()
        note(folder, rank, f"stopped before {step}")
        raise Interrupted(signum)

    supervise(3, worker, timeout=TIMEOUT)


def plain(folder: Path) -> None:
    """Workers that know nothing of signals."""

    def worker(rank: int) -> None:
        try:
            note(folder, rank, "ready")
            time.sleep(100)
        except KeyboardInterrupt:
            note(folder, rank, "KeyboardInterrupt")
            raise

    supervise(2, worker)


def fails_while_stopping(folder: Path) -> None:
    def worker(rank: int) -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)
        note(folder, rank, "ready")
        step = 0
        while not (signum := beat(step)):
            time.sleep(0.01)
            step += 1
        if rank:
            raise OSError(28, "No space left on device")
        time.sleep(1)
        raise Interrupted(signum)

    supervise(2, worker)


def finishes_when_asked(folder: Path) -> None:
    def worker(rank: int) -> None:
        signal.signal(signal.SIGTERM, lambda *_: None)
        note(folder, rank, "ready")
        while not stop_requested():
            time.sleep(0.01)

    supervise(2, worker)
    print("all finished")


def with_loaders(folder: Path, fault: str, watcher: bool = False) -> None:
    """Ranks with two loader workers each."""
    if watcher:
        forking._kill_on_parent_death = lambda: False

    def worker(rank: int) -> None:
        for step, _ in enumerate(DataLoader(Endless(), batch_size=None, num_workers=2)):
            beat(step)
            if step == 3:
                note(folder, rank, "ready")
                if rank:
                    FAULTS[fault]()

    supervise(2, worker)


def counting(folder: Path) -> None:
    """Counts while it runs, for a second and a half of its own time."""

    def worker(rank: int) -> None:
        for step in range(15):
            beat(step)
            note(folder, rank, "ready")
            time.sleep(0.1)

    supervise(2, worker)


def used_openmp(folder: Path) -> None:
    """The parent has run an operation on two threads, which its forks cannot."""
    torch.set_num_threads(2)
    torch.zeros(1 << 20).exp_()
    os.sched_getaffinity = lambda _: {0, 1}

    def worker(rank: int) -> None:
        torch.zeros(1 << 20).exp_()
        note(folder, rank, torch.get_num_threads())

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        supervise(1, worker)
    print(*(f"{warning.category.__name__} {warning.message}" for warning in caught), sep="\n")


def forks_with_a_warning(folder: Path) -> None:
    """os.fork of Python 3.12 and later, which warns in the parent when threads exist."""
    fork = os.fork

    def warning_fork() -> int:
        pid = fork()
        if pid:
            warnings.warn(
                f"This process (pid={os.getpid()}) is multi-threaded, use of fork() may lead to deadlocks.",
                DeprecationWarning,
                stacklevel=2,
            )
        return pid

    os.fork = warning_fork

    before = list(warnings.filters)

    def worker(rank: int) -> None:
        note(folder, rank, f"filters kept: {warnings.filters == before}")

    supervise(2, worker)


def cannot_fork(folder: Path) -> None:
    """The second fork fails."""
    fork, left = os.fork, [1]

    def limited_fork() -> int:
        if not left:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        left.pop()
        return fork()

    os.fork = limited_fork
    supervise(2, lambda rank: time.sleep(100))


def ignores_children(folder: Path) -> None:
    """A parent that has its children's exit statuses thrown away, and ignores SIGINT."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def worker(rank: int) -> None:
        os.kill(os.getppid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)
        if rank:
            os._exit(0)

    supervise(2, worker)


def debugging(folder: Path) -> None:
    os.environ["PLCOURSE_DEBUG"] = "1"
    joining(folder, {"1": "raise"})


def serve() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os._exit(run(request.pop("job"), Path(request.pop("folder")), request))
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def run(job: str, folder: Path, options: dict[str, object]) -> int:
    """Ends as `main` of the command does."""
    os.setpgid(0, 0)  # as a shell does, so that a test can signal the job as a terminal would
    ctypes.CDLL(None).prctl(1, ctypes.c_ulong(signal.SIGKILL))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, number in (("out", 1), ("err", 2)):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    status = 0
    try:
        globals()[job](folder, **options)
    except Interrupted as interrupted:
        status = 128 + interrupted.signum
    except UserError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        status = error.status
    except BaseException as error:
        print(f"unexpected {error!r}", file=sys.stderr)
        status = 99
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    serve()
