"""Small collectives that all ranks call in the same order, and that cost nothing in a single process."""

import io
from collections.abc import Sequence
from typing import Any, TypeVar

import pytorch_lightning as pl
import torch
import torch.distributed as dist

T = TypeVar("T")

_cpu_groups: "dict[int, dist.ProcessGroup | None]" = {}


def is_distributed() -> bool:
    """Whether this process is one of several ranks whose process group is up."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def cpu_group() -> "dist.ProcessGroup | None":
    """Returns a process group for CPU tensors: the default group with gloo, an additional one with NCCL.

    Sending a few integers through NCCL would make the host wait for the GPU at every step.
    """
    if "gloo" in str(dist.get_backend()):
        return dist.group.WORLD
    world = id(dist.group.WORLD)
    if world not in _cpu_groups:
        _cpu_groups[world] = dist.new_group(backend="gloo")  # pyright: ignore[reportArgumentType]  (-100 means outside the group)
    return _cpu_groups[world]


def maximum(values: Sequence[int]) -> list[int]:
    """Returns the maximum of each value over all ranks; a collective."""
    if not is_distributed():
        return list(values)
    message = torch.tensor(values, dtype=torch.int64)
    dist.all_reduce(message, op=dist.ReduceOp.MAX, group=cpu_group())
    return message.tolist()


def gather_numbers(values: Sequence[float]) -> list[list[float]]:
    """Returns the numbers of all ranks, in their order; a collective. All ranks must give equally many."""
    if not is_distributed():
        return [list(values)]
    own = torch.tensor(values, dtype=torch.float64)
    found = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(found, own, group=cpu_group())
    return [numbers.tolist() for numbers in found]


def gather_objects(value: T) -> list[T]:
    """Returns the values of all ranks, in their order; a collective.

    The values are pickled, but only between the ranks of one job, which run the same code.
    """
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value, group=cpu_group())
    return values


def gather_states(value: T) -> list[T]:
    """Returns the values of all ranks, which may contain tensors; a collective.

    They are sent as bytes, because torch 2.15 cannot unpickle tensors in all_gather_object.
    """
    if not is_distributed():
        return [value]
    own = io.BytesIO()
    torch.save(value, own)
    return [torch.load(io.BytesIO(state), weights_only=True) for state in gather_objects(own.getvalue())]


def from_rank_0(value: T) -> T:
    """Returns the value of rank 0 on every rank; a collective. The values of the others are ignored."""
    if not is_distributed():
        return value
    message: list[Any] = [value if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(message, src=0, group=cpu_group())
    return message[0]


def broadcast_buffers(trainer: pl.Trainer) -> None:
    """Gives every rank the buffers of rank 0, such as the running statistics of BatchNorm; a collective.

    After training, each rank has the statistics of its last batches, so the ranks would evaluate different models.
    """
    if not is_distributed():
        return
    module = trainer.strategy.lightning_module
    assert module is not None
    for buffer in module.buffers():
        dist.broadcast(buffer.data, src=0)
