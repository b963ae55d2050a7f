"""The mechanism of this lesson: one optimizer step of one network, by hand.

With two networks Lightning cannot know which one steps when, so the module decides (``automatic_optimization = False``)
and does what the Trainer does in automatic optimization, in this order::

    toggle the optimizer          only this network's parameters take gradients
    zero_grad
    for each micro-batch:
        loss, manual_backward     the loss is scaled for half precision, gradients are summed
    average over the processes    instead of DistributedDataParallel, see `average_gradients`
    optimizer.step                unscales, calls `on_before_optimizer_step` (which clips), then steps
    scheduler.step

All of it happens within one `training_step`. No gradient is half accumulated between two batches, so that every
checkpoint is exact.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from plcourse.data import Batch
from plcourse.processes.collectives import is_distributed
from plcourse.training.metrics import is_logging_step

GENERATOR, DISCRIMINATOR = 0, 1  # the order of the optimizers in `configure_optimizers` and in checkpoints
PLAYERS = ("generator", "discriminator")
Scalars = dict[str, Tensor]  # "loss" and what is logged with it


def take_turn(
    module: pl.LightningModule,
    player: int,
    batch: Batch,
    loss_of: Callable[[Batch], Scalars],
    micro_batches: int = 1,
) -> Scalars:
    """Takes one optimizer step of one network on a batch.

    Args:
        module: the module, with the generator's optimizer first.
        player: `GENERATOR` or `DISCRIMINATOR`.
        batch: this process's slice; its ``rank_weight`` makes the mean over processes the mean over samples.
        loss_of: maps a part of the batch to the network's ``loss`` and other scalars, all means over its samples.
        micro_batches: number of parts the batch is split into, to save memory.

    Returns:
        The scalars of the whole slice, weighted by ``rank_weight``, and ``grad_norm`` if it was computed.
    """
    optimizer: Any = module.optimizers()[player]  # pyright: ignore[reportIndexIssue]  (two make a list)
    scalars: Scalars = {}
    with optimizer.toggle_model(sync_grad=False):  # DDP must not average the gradients
        optimizer.zero_grad()
        for part, weight in cut(batch, micro_batches):
            found = loss_of(part)
            module.manual_backward(found["loss"] * weight)
            for name, value in found.items():
                scalars[name] = scalars.get(name, 0) + value.detach() * weight
        average_gradients(optimizer)
        optimizer.step()
    schedulers: Any = module.trainer.lr_scheduler_configs
    for config in schedulers:
        if config.scheduler.optimizer is optimizer.optimizer:
            config.scheduler.step()
    if (norm := getattr(module, "gradient_norm", None)) is not None:
        scalars["grad_norm"] = norm
    return scalars


def cut(batch: Batch, parts: int) -> Iterator[tuple[Batch, float]]:
    """Splits the tensors and lists of a batch into at most ``parts`` parts of nearly equal size.

    Yields:
        The part, and its weight: its fraction of the batch's samples times ``rank_weight``.
    """
    size, weight = len(batch["id"]), batch.get("rank_weight", 1.0)
    parts = min(parts, size)
    for number in range(parts):
        begin, end = size * number // parts, size * (number + 1) // parts
        part = {key: value[begin:end] if isinstance(value, Tensor | list) else value for key, value in batch.items()}
        yield Batch(part), weight * (end - begin) / size


def average_gradients(optimizer: Any) -> None:
    """Averages the gradients of one optimizer's parameters over all processes; a collective.

    DistributedDataParallel expects a gradient of every parameter in every backward pass. Here each pass is for one
    network (Lightning issue 20328), so that DDP would either fail or, with ``find_unused_parameters``, search the graph
    and send the gradients of both networks. One message with the gradients of this network needs neither the search
    nor a flag, but it does not overlap with the backward pass as DDP's messages do.
    """
    if not is_distributed():
        return
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    message = parameters_to_vector(gradients)
    dist.all_reduce(message)
    vector_to_parameters(message / dist.get_world_size(), gradients)


def clip(module: pl.LightningModule, optimizer: torch.optim.Optimizer, largest: float | None) -> Tensor | None:
    """Clips the gradients of one optimizer and returns their norm before; None if it is neither limited nor logged.

    `on_before_optimizer_step` calls it, where they are complete and unscaled; right after the backward pass they would
    still be scaled for half precision.
    """
    if largest is None and not is_logging_step(module.trainer):
        return None
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return nn.utils.clip_grad_norm_(parameters, float("inf") if largest is None else largest).detach()
