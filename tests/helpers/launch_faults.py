"""What may go wrong in a rank of the jobs of `launch_scenarios`, and what they share."""

import datetime
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.data import Dataset

from plcourse.errors import RunFailed, UserError

TIMEOUT = 1.5  # of the collectives, in seconds


def note(folder: Path, rank: int, text: object) -> None:
    with (folder / f"rank{rank}").open("a") as file:
        file.write(f"{text}\n")


def join_gloo(rank: int) -> None:
    dist.init_process_group(
        "gloo",
        rank=rank,
        world_size=int(os.environ["WORLD_SIZE"]),
        timeout=datetime.timedelta(seconds=TIMEOUT),
    )


def raise_value_error() -> None:
    raise ValueError("the label is 12\nand there are 10 classes")


def raise_in_vain() -> None:
    """As a teardown does that meets the others in a barrier which they never enter."""
    try:
        raise ValueError("the cause")
    finally:
        dist.broadcast(torch.ones(1), 0 if int(os.environ["LOCAL_RANK"]) else 1)


def mend_and_fail() -> None:
    """An error raised while handling the loss of a connection is as secondary as the loss."""
    try:
        dist.all_reduce(torch.ones(10))
    except RuntimeError as error:
        raise KeyError("nothing to clean up") from error


FAULTS: dict[str, Callable[[], object]] = {
    "raise": raise_value_error,
    "raise_in_vain": raise_in_vain,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "abort": os.abort,
    "exit": lambda: os._exit(0),
    "sys_exit": lambda: sys.exit(0),
    "exit_3": lambda: sys.exit(3),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "sleep": lambda: time.sleep(100),
    "other_collective": lambda: dist.broadcast(torch.ones(1), 0),
    "return": lambda: None,
    "user_error": lambda: bad_request("no class 'Restnet'; did you mean 'ResNet'?"),
    "run_failed": lambda: fail_run("the loss is nan"),
    "mend": mend_and_fail,
    "term_itself": lambda: os.kill(os.getpid(), signal.SIGTERM),
}


def bad_request(text: str) -> None:
    raise UserError(text)


def fail_run(text: str) -> None:
    raise RunFailed(text) from ValueError("a detail")


class Endless(Dataset[torch.Tensor]):
    """Samples without end, for loader workers."""

    def __len__(self) -> int:
        return 10**9

    def __getitem__(self, index: int) -> torch.Tensor:
        time.sleep(0.01)
        return torch.zeros(1)
