"""The mechanism of this lesson: one network's turn, every part of it by hand.

With two networks Lightning cannot know who steps when, so the module does it (``automatic_optimization = False``). What
the Trainer does in automatic optimization is done here, in this order::

    toggle the optimizer          only this network's parameters take gradients
    zero_grad
    for each micro-batch:
        loss, manual_backward     the loss scaled for half precision, gradients summed up
    average over the processes    instead of DistributedDataParallel, see `average_gradients`
    optimizer.step                unscales, calls `on_before_optimizer_step` (which clips), then steps
    scheduler.step

A turn starts and ends within one `training_step`: between two batches there is never a half-accumulated gradient, so
that every checkpoint is exact.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn

from plcourse.processes.collectives import is_distributed
from plcourse.training.metrics import is_logging_step

GENERATOR, DISCRIMINATOR = 0, 1  # the order of the optimizers, in `configure_optimizers` and in checkpoints
PLAYERS = ("generator", "discriminator")
Report = dict[str, Tensor]


def take_turn(
    module: pl.LightningModule,
    player: int,
    batch: dict[str, Any],
    loss_of: Callable[[dict[str, Any]], Report],
    micro_batches: int = 1,
) -> Report:
    """Lets one network take one optimizer step on a batch.

    Args:
        module: the module, with the generator's optimizer first.
        player: `GENERATOR` or `DISCRIMINATOR`.
        batch: this process's share; its ``rank_weight`` makes the mean over processes the mean over samples.
        loss_of: the network's loss on a part of the batch, as ``loss``, and what else is to be logged; all of them
            means over the samples of the part.
        micro_batches: parts into which the batch is cut, one after the other in memory.

    Returns:
        The report over the whole share, weighted with ``rank_weight``, and ``grad_norm`` where it was looked at.
    """
    optimizer: Any = module.optimizers()[player]  # pyright: ignore[reportIndexIssue]  (two make a list)
    report: Report = {}
    with optimizer.toggle_model(sync_grad=False):  # DDP is told to leave the gradients alone
        optimizer.zero_grad()
        for part, weight in cut(batch, micro_batches):
            found = loss_of(part)
            module.manual_backward(found["loss"] * weight)
            for name, value in found.items():
                report[name] = report.get(name, 0) + value.detach() * weight
        average_gradients(optimizer)
        optimizer.step()
    schedulers: Any = module.trainer.lr_scheduler_configs
    for config in schedulers:
        if config.scheduler.optimizer is optimizer.optimizer:
            config.scheduler.step()
    norm = getattr(module, "gradient_norm", None)
    if norm is not None:
        report["grad_norm"] = norm
    return report


def cut(batch: dict[str, Any], parts: int) -> Iterator[tuple[dict[str, Any], float]]:
    """Cuts a batch into parts of nearly equal size.

    Args:
        batch: tensors and lists of B samples; anything else goes into every part.
        parts: 1 or more; never more than B are made.

    Yields:
        The part, and its weight: its share of the batch's samples times ``rank_weight``.
    """
    size = len(batch["id"])
    weight = batch.get("rank_weight", 1.0)
    parts = min(parts, size)
    if parts == 1:
        yield batch, weight
        return
    for number in range(parts):
        begin, end = size * number // parts, size * (number + 1) // parts
        part = {key: value[begin:end] if isinstance(value, Tensor | list) else value for key, value in batch.items()}
        yield part, weight * (end - begin) / size


def average_gradients(optimizer: Any) -> None:
    """Averages the gradients of one optimizer's parameters over all processes; a collective.

    DistributedDataParallel waits for every parameter in every backward pass. Here each pass is for one network, the
    other one's parameters are unused (Lightning issue 20328), and DDP would either fail or, with
    ``find_unused_parameters``, search the graph and send the gradients of both. One message with this network's
    gradients, sent when they are complete, needs neither the search nor a flag. What is given up is DDP's overlap of
    the message with the backward pass.
    """
    if not is_distributed():
        return
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    message = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(message)
    message /= dist.get_world_size()
    start = 0
    for gradient in gradients:
        gradient.copy_(message[start : start + gradient.numel()].view_as(gradient))
        start += gradient.numel()


def clip(module: pl.LightningModule, optimizer: torch.optim.Optimizer, largest: float | None) -> Tensor | None:
    """Clips the gradients of one optimizer to a norm; to be called in `on_before_optimizer_step`.

    There the gradients are complete and no longer scaled for half precision, which a clipping right after the backward
    pass would find them to be.

    Args:
        module: the module that steps.
        optimizer: whose gradients.
        largest: the largest norm; None clips nothing.

    Returns:
        The norm before clipping; None where nobody needs it.
    """
    if largest is None and not is_logging_step(module.trainer):
        return None
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return nn.utils.clip_grad_norm_(parameters, float("inf") if largest is None else largest).detach()


def discriminator_stats(real_B: Tensor, fake_B: Tensor) -> Report:
    """How well a discriminator tells real from generated, for any loss.

    Args:
        real_B: its scores of real samples; larger means more real.
        fake_B: its scores of generated ones.

    Returns:
        ``balance``, the mean difference: 0 where it cannot tell, growing as it gets ahead; and ``pair_accuracy``, the
        share of pairs in which the real one scores higher, 0.5 where it cannot tell.
    """
    ahead_B = real_B.detach() - fake_B.detach()
    return {"balance": ahead_B.mean(), "pair_accuracy": (ahead_B > 0).to(ahead_B.dtype).mean()}


def squared_gradient(score_B: Tensor, sample_BX: Tensor) -> Tensor:
    """The squared norm of each score's gradient at its sample, of shape [B], itself ready for a backward pass."""
    (gradient_BX,) = torch.autograd.grad(score_B.sum(), sample_BX, create_graph=True)
    return gradient_BX.square().flatten(1).sum(dim=1)


def in_full_precision(module: pl.LightningModule) -> contextlib.AbstractContextManager[Any]:
    """Autocast off: squares of input gradients fall below what 16 bits can hold."""
    return torch.autocast(module.device.type, enabled=False)
