"""How many processes a command starts, and how long one of them waits for the others."""

import os
from typing import Any

import torch
from torch.distributed.constants import default_pg_timeout

from plcourse.errors import UserError
from plcourse.processes.forking import can_fork

_STARTED_ELSEWHERE = ("LOCAL_RANK", "SLURM_NTASKS")  # set by torchrun and SLURM


def process_count(trainer: Any) -> int:
    """The number of processes that this command starts and supervises; 1 where another program started this one.

    Args:
        trainer: the trainer's part of the parsed config.
    """
    started_elsewhere = any(name in os.environ for name in _STARTED_ELSEWHERE)
    if started_elsewhere or not can_fork() or trainer.get("fast_dev_run") is None:
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


def check_nodes(trainer: Any) -> None:
    """Raises a UserError where the config asks for several nodes and nothing has started the others."""
    nodes = int(trainer.get("num_nodes") or 1)
    if nodes > 1 and not any(name in os.environ for name in _STARTED_ELSEWHERE):
        raise UserError(
            f"trainer.num_nodes is {nodes}: start it on each node with torchrun --nnodes {nodes} ... "
            "-m plcourse, or use this machine alone with --trainer.num_nodes 1"
        )


def collective_timeout(trainer: Any) -> float:
    """Seconds that a rank waits for the others in a collective: the strategy's ``timeout``, else torch's default."""
    strategy = trainer.get("strategy")
    arguments = {} if isinstance(strategy, str) else strategy.get("init_args") or {}
    return arguments.get("timeout", default_pg_timeout).total_seconds()
