"""How many processes a command starts, and how long one of them waits for the others."""

import re

import torch
from jsonargparse import Namespace
from torch.distributed.constants import default_pg_timeout

from plcourse.errors import UserError
from plcourse.processes.forking import can_fork
from plcourse.processes.launcher import find_rank, is_rank


def process_count(trainer: Namespace) -> int:
    """Returns the number of processes that a command with this trainer starts, 1 if another program started it."""
    if is_rank() or not can_fork() or trainer.get("fast_dev_run") is None:
        return 1
    strategy = trainer.get("strategy")
    name = strategy if isinstance(strategy, str) else strategy.get("class_path", "").rpartition(".")[2]
    if name not in ("auto", "ddp", "DDPStrategy", "FSDPStrategy", "fsdp") and not name.startswith("ddp_find_unused"):
        return 1
    return _devices(trainer)


def use_own_launcher(trainer: Namespace) -> None:
    """Replaces a strategy that makes Lightning spawn or fork the processes, so that they are supervised."""
    strategy = trainer.get("strategy")
    if not can_fork():
        return
    if isinstance(strategy, str):
        trainer["strategy"] = re.sub(r"^ddp_(spawn|fork|notebook)(?=_|$)", "ddp", strategy)
    elif "start_method" in (arguments := strategy.get("init_args") or {}):
        arguments["start_method"] = "popen"


def check_nodes(trainer: Namespace) -> None:
    """Checks that all processes that the config asks for are there, or will be.

    Raises:
        UserError: the config asks for several nodes and no program has started the others, or for more or fewer
            processes than a launcher has started.
    """
    nodes, rank = int(trainer.get("num_nodes") or 1), find_rank()
    if rank is None:
        if nodes > 1:
            raise UserError(
                f"trainer.num_nodes is {nodes}: start it on each node with torchrun --nnodes {nodes} ... "
                "-m plcourse, or use this machine alone with --trainer.num_nodes 1"
            )
    elif (asked := _devices(trainer) * nodes) != rank.world_size:
        raise UserError(
            f"the launcher has started {rank.world_size} process(es), but trainer.devices times trainer.num_nodes is "
            f"{asked}: both must be equal"
        )


def _devices(trainer: Namespace) -> int:
    """Returns the number of processes on each node."""
    devices, accelerator = trainer.get("devices"), str(trainer.get("accelerator"))
    if isinstance(devices, list):
        return len(devices)
    if str(devices).lstrip("-").isdecimal():
        return int(devices) if int(devices) > 0 else max(1, torch.cuda.device_count())
    if devices == "auto":
        on_gpus = accelerator in ("gpu", "cuda") or (accelerator == "auto" and torch.cuda.is_available())
        return max(1, torch.cuda.device_count()) if on_gpus else 1
    return len([part for part in str(devices).split(",") if part.strip()])


def collective_timeout(trainer: Namespace) -> float:
    """Returns the seconds that a rank waits in a collective: the strategy's ``timeout``, or else torch's default."""
    strategy = trainer.get("strategy")
    arguments = {} if isinstance(strategy, str) else strategy.get("init_args") or {}
    return arguments.get("timeout", default_pg_timeout).total_seconds()
