"""A learning rate that can be left early: the runs that a comparison branches into share every step before it."""

import math
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class WarmupHoldDecay(LRScheduler):
    r"""Linear warm-up, a constant rate, then a cosine down to nearly nothing (Zhai et al. 2022, arXiv 2106.04560).

    .. math:: \eta_t = \eta_0 \left(f + (1 - f)\,\tfrac{1}{2}\left(1 + \cos \pi \tfrac{t - h}{T - h}\right)\right)

    for a step :math:`t` after the :math:`h` first ones, of :math:`T` in all. Until then the rate does not depend on
    what comes later: two runs with another end are the same run bit by bit up to the step at which they part. Stepped
    once per optimizer step.

    Args:
        optimizer: the optimizer whose learning rates are the peak rates.
        warmup: the share of all steps spent warming up, 0 to 1.
        hold: the share of all steps, those of the warm-up included, before the rate falls, 0 to 1; 1 never lowers it.
        final: the last rate as a share :math:`f` of the peak, 0 to 1.
        total_steps: all optimizer steps, 1 or more; None lets the model fill it in from the trainer.

    Raises:
        ValueError: a share outside 0 to 1.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: float = 0.1,
        hold: float = 0.6,
        final: float = 0.0,
        total_steps: int | None = None,
    ) -> None:
        for name, share in (("warmup", warmup), ("hold", hold), ("final", final)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}; it is a share between 0 and 1")
        self.warmup, self.hold, self.final, self.total_steps = warmup, hold, final, total_steps
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
            raise ValueError("WarmupHoldDecay needs to know the end: set trainer.max_epochs, max_steps or total_steps")
        self.total_steps = int(total_steps)
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """The state without what the config says: a run may go on with another end."""
        shape = ("total_steps", "warmup", "hold", "final")
        return {key: value for key, value in super().state_dict().items() if key not in shape}

    def _factor(self, step: int) -> float:
        if self.total_steps is None:  # before `start`
            return 1.0
        warmup_steps = max(1, round(self.warmup * self.total_steps)) if self.warmup else 0
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        held = max(warmup_steps, round(self.hold * self.total_steps))
        if step < held:
            return 1.0
        progress = min(1.0, (step - held) / max(1, self.total_steps - held))
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2
