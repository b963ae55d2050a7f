"""How many processes a command starts, and how long one of them waits for the others."""

import os

import torch
from jsonargparse import Namespace
from torch.distributed.constants import default_pg_timeout

from plcourse.errors import UserError
from plcourse.processes.forking import can_fork


def process_count(trainer: Namespace) -> int:
    """Returns the number of processes that a command with this trainer starts, 1 if another program started it."""
    if _started_elsewhere() or not can_fork() or trainer.get("fast_dev_run") is None:
        return 1
    strategy = trainer.get("strategy")
    name = strategy if isinstance(strategy, str) else strategy.get("class_path", "").rpartition(".")[2]
    if name not in ("auto", "ddp", "DDPStrategy", "FSDPStrategy", "fsdp") and not name.startswith("ddp_find_unused"):
        return 1
    devices, accelerator = trainer.get("devices"), str(trainer.get("accelerator"))
    if isinstance(devices, list):
        return len(devices)
    if str(devices).lstrip("-").isdecimal():
        return int(devices) if int(devices) > 0 else max(1, torch.cuda.device_count())
    if devices == "auto":
        on_gpus = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
        return max(1, torch.cuda.device_count()) if on_gpus else 1
    return len([part for part in str(devices).split(",") if part.strip()])


def check_nodes(trainer: Namespace) -> None:
    """Raises a UserError if the config asks for several nodes and no program has started the others."""
    nodes = int(trainer.get("num_nodes") or 1)
    if nodes > 1 and not _started_elsewhere():
        raise UserError(
            f"trainer.num_nodes is {nodes}: start it on each node with torchrun --nnodes {nodes} ... "
            "-m plcourse, or use this machine alone with --trainer.num_nodes 1"
        )


def collective_timeout(trainer: Namespace) -> float:
    """Returns the seconds that a rank waits in a collective: the strategy's ``timeout``, or else torch's default."""
    strategy = trainer.get("strategy")
    arguments = {} if isinstance(strategy, str) else strategy.get("init_args") or {}
    return arguments.get("timeout", default_pg_timeout).total_seconds()


def _started_elsewhere() -> bool:
    return "LOCAL_RANK" in os.environ or "SLURM_NTASKS" in os.environ  # set by torchrun and SLURM
