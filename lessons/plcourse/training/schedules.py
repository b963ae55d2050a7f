"""Learning-rate schedules that know how long the training will be."""

import math
from abc import abstractmethod
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.cli import LRSchedulerCallable
from pytorch_lightning.utilities.types import OptimizerConfig, OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class PlannedSchedule(LRScheduler):
    """A curve over the whole training: each rate is the peak rate times a factor. Stepped once per optimizer step.

    A resumed run may be made longer or shorter, or get another shape: it then follows the curve of its new plan. Where
    that curve is elsewhere than the old one was, the rate moves over to it in a straight line, within the steps that
    the new plan would spend warming up if it began here. No step is taken at the rate 0 at which the old plan ended.

    Args:
        optimizer: the optimizer whose learning rates are the peak rates.
        warmup: the share of all steps spent warming up, 0 to 1.
        final: the last rate as a share of the peak, 0 to 1.
        total_steps: all optimizer steps, 1 or more; None lets the model fill it in from the trainer.
        **shape: further shares of the curve, 0 to 1, kept as attributes.

    Raises:
        ValueError: a share outside 0 to 1.
    """

    def __init__(
        self, optimizer: Optimizer, warmup: float, final: float, total_steps: int | None, **shape: float
    ) -> None:
        shares = {"warmup": warmup, "final": final, **shape}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}; it is a share between 0 and 1")
            setattr(self, name, share)
        self.warmup, self.final, self.total_steps = warmup, final, total_steps
        self._plan = ("total_steps", *shares)
        self._bridge: tuple[int, int, float] | None = None  # first step, steps, and the factor that they start from
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Tensor]:
        """The rates of the next step, one per parameter group."""
        return [rate * self._factor(self.last_epoch) for rate in self.base_lrs]

    def start(self, total_steps: float) -> None:
        """Fixes the length of the training, in optimizer steps, and sets the first rate.

        Raises:
            ValueError: the training has no end.
        """
        if math.isinf(total_steps):
            raise ValueError(
                f"{type(self).__name__} needs to know the end: set trainer.max_epochs or max_steps, or its total_steps"
            )
        self.total_steps = int(total_steps)
        self._set_rates()

    def state_dict(self) -> dict[str, Any]:
        """Where the schedule stands, and the plan that it has followed so far."""
        state = {key: value for key, value in super().state_dict().items() if key not in (*self._plan, "_plan")}
        return {**state, "plan": {key: getattr(self, key) for key in self._plan}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from where a schedule stood, by the plan of this one."""
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
        else:  # of an older plcourse, whose checkpoints do not say how long the plan was
            rate, peak = self.optimizer.param_groups[0]["lr"], self.base_lrs[0]
            before = float(rate / peak) if peak else 0.0
        self._move_over(before)

    def _move_over(self, before: float) -> None:
        """Starts a bridge from a factor to the curve, where the curve is elsewhere, and sets the rates of this step."""
        first, total = self.last_epoch, self.total_steps or 0
        self._bridge, bridge = None, self._bridge
        if math.isclose(before, self._factor(first), rel_tol=1e-9, abs_tol=1e-12):
            return
        steps = max(1, round(self.warmup * (total - first)))
        # a plan that changes again in the middle of a bridge still has the way before it
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
        """The factor of a step, counted from 0, of so many in all."""

    def _warmup_steps(self, total_steps: int) -> int:
        return max(1, round(self.warmup * total_steps)) if self.warmup else 0


class WarmupCosine(PlannedSchedule):
    r"""Linear warm-up, then a cosine down to nearly nothing (Loshchilov and Hutter 2017, equation 5, one cycle).

    .. math:: \eta_t = \eta_0 \left(f + (1 - f)\,\tfrac{1}{2}\left(1 + \cos \pi \tfrac{t - w}{T - w}\right)\right)

    for step :math:`t` after the warm-up of :math:`w` steps, of :math:`T` in all.

    Args:
        optimizer: the optimizer whose learning rates are the peak rates.
        warmup: the share of all steps spent warming up, 0 to 1.
        final: the last rate as a share :math:`f` of the peak, 0 to 1.
        total_steps: all optimizer steps, 1 or more; None lets the model fill it in from the trainer.

    Raises:
        ValueError: a share outside 0 to 1.
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


def with_schedule(
    module: pl.LightningModule, optimizer: Optimizer, lr_scheduler: LRSchedulerCallable | None, steps_per_batch: int = 1
) -> OptimizerConfig | OptimizerLRSchedulerConfig:
    """Pairs an optimizer with its schedule, as `configure_optimizers` returns them.

    Args:
        module: the model. A `PlannedSchedule` without ``total_steps`` takes the training length from its trainer.
        optimizer: the optimizer.
        lr_scheduler: builds the schedule from the optimizer, stepped once per optimizer step; None for a constant rate.
        steps_per_batch: steps of this optimizer per training batch, 1 or more.
    """
    if lr_scheduler is None:
        return {"optimizer": optimizer}
    schedule = lr_scheduler(optimizer)
    if isinstance(schedule, PlannedSchedule) and schedule.total_steps is None:
        schedule.start(module.trainer.estimated_stepping_batches * steps_per_batch)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
