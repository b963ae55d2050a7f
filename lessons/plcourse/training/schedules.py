"""Learning-rate schedules that know the length of the training."""

import math
from abc import abstractmethod
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LRSchedulerCallable
from pytorch_lightning.utilities.types import LRSchedulerConfigType, OptimizerConfig, OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from plcourse.errors import UserError


class PlannedSchedule(LRScheduler):
    """A curve over the whole training: each rate is the peak rate times a factor. Stepped once per optimizer step.

    A resumed run may change the length or the shape of its plan, and then follows the new curve. If that differs from
    the old one at this point, the rate moves to it linearly, within the steps that the new plan would spend on warm-up
    if it began here. No step is taken at the rate 0 at which the old plan ended.

    Args:
        optimizer: the optimizer whose learning rates are the peak rates.
        warmup: fraction of all steps spent on warm-up, 0 to 1.
        final: the last rate as a fraction of the peak, 0 to 1.
        total_steps: number of optimizer steps, 1 or more; None lets the model take it from the trainer.
        **shape: further fractions that shape the curve, 0 to 1, kept as attributes.

    Raises:
        ValueError: a fraction is outside 0 to 1.
    """

    def __init__(
        self, optimizer: Optimizer, warmup: float, final: float, total_steps: int | None, **shape: float
    ) -> None:
        fractions = {"warmup": warmup, "final": final, **shape}
        for name, fraction in fractions.items():
            if not 0 <= fraction <= 1:
                raise ValueError(f"{name} is {fraction}; it must be between 0 and 1")
            setattr(self, name, fraction)
        self.warmup, self.final, self.total_steps = warmup, final, total_steps
        self._plan = ("total_steps", *fractions)
        self._bridge: tuple[int, int, float] | None = None  # first step, steps, factor at the start
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """Returns the rates of the next step, one per parameter group.

        Groups that a callback such as Lightning's `BackboneFinetuning` has added keep the rate that it gives them.
        """
        added = self.optimizer.param_groups[len(self.base_lrs) :]
        return [*(rate * self._factor(self.last_epoch) for rate in self.base_lrs), *(group["lr"] for group in added)]

    def start(self, total_steps: float) -> None:
        """Sets the length of the training, in optimizer steps, and the first rate.

        Raises:
            ValueError: the length is infinite.
        """
        if math.isinf(total_steps):
            raise ValueError(
                f"{type(self).__name__} needs the length of the training: set trainer.max_epochs, trainer.max_steps "
                "or its total_steps"
            )
        self.total_steps = int(total_steps)
        self._set_rates()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the schedule and the plan that it has followed so far."""
        state = {key: value for key, value in super().state_dict().items() if key not in (*self._plan, "_plan")}
        return {**state, "plan": {key: getattr(self, key) for key in self._plan}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from the state of another schedule, with the plan of this one."""
        state = {key: value for key, value in state_dict.items() if key not in (*self._plan, "plan")}
        own = {key: getattr(self, key) for key in self._plan}
        followed = state_dict.get("plan", {})
        super().load_state_dict(state)
        if followed == own or self.total_steps is None:
            return
        if followed:
            vars(self).update(followed)
            before = self._factor(self.last_epoch)
            vars(self).update(own)
        else:  # the checkpoints of older versions do not contain the plan
            rate, peak = self.optimizer.param_groups[0]["lr"], self.base_lrs[0]
            before = float(rate / peak) if peak else 0.0
        self._move_over(before)

    def _move_over(self, before: float) -> None:
        """If the curve differs from a factor, starts a bridge from that factor to the curve and sets the rates."""
        first, total = self.last_epoch, self.total_steps or 0
        self._bridge, bridge = None, self._bridge
        if math.isclose(before, self._factor(first), rel_tol=1e-9, abs_tol=1e-12):
            return
        steps = max(1, round(self.warmup * (total - first)))
        # If the plan changes again on a bridge, the new bridge takes at least the steps that were left of the old one.
        self._bridge = (first, steps if bridge is None else max(steps, bridge[0] + bridge[1] - first), before)
        self._set_rates()

    def _set_rates(self) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate

    def _factor(self, step: int) -> float:
        if self.total_steps is None:  # before `start`
            return 1.0
        planned = self._curve(step, self.total_steps)
        if self._bridge is None:
            return planned
        first, steps, before = self._bridge
        return before + (planned - before) * min(1.0, (step - first + 1) / steps)

    @abstractmethod
    def _curve(self, step: int, total_steps: int) -> float:
        """Returns the factor of a step, counted from 0, for a training of ``total_steps``."""

    def _warmup_steps(self, total_steps: int) -> int:
        return max(1, round(self.warmup * total_steps)) if self.warmup else 0


class WarmupCosine(PlannedSchedule):
    r"""Linear warm-up, then a cosine to the final rate (Loshchilov and Hutter 2017, equation 5, one cycle).

    .. math:: \eta_t = \eta_0 \left(f + (1 - f)\,\tfrac{1}{2}\left(1 + \cos \pi \tfrac{t - w}{T - w}\right)\right)

    for step :math:`t` after the warm-up of :math:`w` steps, of :math:`T` in all.

    Args:
        optimizer: the optimizer whose learning rates are the peak rates.
        warmup: fraction of all steps spent on warm-up, 0 to 1.
        final: the last rate as a fraction :math:`f` of the peak, 0 to 1.
        total_steps: number of optimizer steps, 1 or more; None lets the model take it from the trainer.

    Raises:
        ValueError: a fraction is outside 0 to 1.
    """

    def __init__(
        self, optimizer: Optimizer, warmup: float = 0.1, final: float = 0.0, total_steps: int | None = None
    ) -> None:
        super().__init__(optimizer, warmup, final, total_steps)

    def _curve(self, step: int, total_steps: int) -> float:
        warmup_steps = self._warmup_steps(total_steps)
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2


class PerEpoch(LRScheduler):
    """Marks a schedule that is stepped once per epoch instead of once per optimizer step; see `with_schedule`.

    It is a schedule itself so that a config may name it as one.

    Args:
        optimizer: the optimizer.
        schedule: builds the schedule from the optimizer.
    """

    def __init__(self, optimizer: Optimizer, schedule: LRSchedulerCallable) -> None:
        self.schedule = schedule(optimizer)


def with_schedule(
    module: pl.LightningModule, optimizer: Optimizer, lr_scheduler: LRSchedulerCallable | None, steps_per_batch: int = 1
) -> OptimizerConfig | OptimizerLRSchedulerConfig:
    """Returns an optimizer with its schedule, in the form of `configure_optimizers`.

    Args:
        module: the model. A `PlannedSchedule` without ``total_steps`` takes the training length from its trainer.
        optimizer: the optimizer.
        lr_scheduler: builds the schedule, stepped once per optimizer step; that of a `PerEpoch` is stepped once per
            epoch, and so is a ``ReduceLROnPlateau``, after validation. None keeps the rate constant.
        steps_per_batch: steps of this optimizer per training batch, 1 or more.

    Raises:
        UserError: a ``ReduceLROnPlateau`` without a metric, or a schedule per epoch for a model that steps its
            schedules itself.
    """
    if lr_scheduler is None:
        return {"optimizer": optimizer}
    schedule: Any = lr_scheduler(optimizer)
    marked = isinstance(schedule, PerEpoch)
    schedule = schedule.schedule if marked else schedule
    on_plateau = isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau)
    per_epoch = on_plateau or marked
    if per_epoch and not module.automatic_optimization:
        raise UserError(
            f"{type(module).__name__} steps its schedules with its optimizers, and {type(schedule).__name__} would be "
            "stepped once per epoch; choose a schedule that is stepped with the optimizer"
        )
    if isinstance(schedule, PlannedSchedule) and schedule.total_steps is None:
        if not per_epoch:
            schedule.start(module.trainer.estimated_stepping_batches * steps_per_batch)
        else:
            schedule.start(math.inf if module.trainer.max_epochs in (None, -1) else module.trainer.max_epochs)
    settings: LRSchedulerConfigType = {"scheduler": schedule, "interval": "epoch" if per_epoch else "step"}
    if on_plateau:
        if not hasattr(schedule, "monitor"):
            raise UserError(
                "torch's ReduceLROnPlateau has no setting for the metric that it follows; use "
                "pytorch_lightning.cli.ReduceLROnPlateau and set its monitor"
            )
        settings["monitor"] = schedule.monitor  # pyright: ignore[reportAttributeAccessIssue]  (Lightning's has it)
    return {"optimizer": optimizer, "lr_scheduler": settings}
