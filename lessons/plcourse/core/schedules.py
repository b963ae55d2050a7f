"""Learning-rate schedules that know how long the training will be."""

import math
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class WarmupCosine(LRScheduler):
    r"""Linear warm-up, then a cosine down to nearly nothing (Loshchilov and Hutter 2017, equation 5, one cycle).

    .. math:: \eta_t = \eta_0 \left(f + (1 - f)\,\tfrac{1}{2}\left(1 + \cos \pi \tfrac{t - w}{T - w}\right)\right)

    for step :math:`t` after the warm-up of :math:`w` steps, of :math:`T` in all. Stepped once per optimizer step.

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
        for name, share in (("warmup", warmup), ("final", final)):
            if not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}; it is a share between 0 and 1")
        self.warmup, self.final, self.total_steps = warmup, final, total_steps
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
                "WarmupCosine needs to know the end: set trainer.max_epochs or max_steps, or its total_steps"
            )
        self.total_steps = int(total_steps)
        for group, rate in zip(self.optimizer.param_groups, self.get_lr(), strict=True):
            group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """The state without the length of the training: a run that goes on for longer stretches its schedule."""
        return {key: value for key, value in super().state_dict().items() if key != "total_steps"}

    def _factor(self, step: int) -> float:
        if self.total_steps is None:  # before `start`
            return 1.0
        warmup_steps = max(1, round(self.warmup * self.total_steps)) if self.warmup else 0
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = min(1.0, (step - warmup_steps) / max(1, self.total_steps - warmup_steps))
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2
