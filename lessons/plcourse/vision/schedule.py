"""A learning rate with a constant phase, from which the arms of a comparison can branch."""

import math

from torch.optim import Optimizer

from plcourse.training.schedules import PlannedSchedule


class WarmupHoldDecay(PlannedSchedule):
    r"""Linear warm-up, a constant rate, then a cosine decay (Zhai et al. 2022, arXiv 2106.04560).

    .. math:: \eta_t = \eta_0 \left(f + (1 - f)\,\tfrac{1}{2}\left(1 + \cos \pi \tfrac{t - h}{T - h}\right)\right)

    for step :math:`t` of :math:`T`, after the first :math:`h`. Until then the rate does not depend on what follows, so
    runs with different ends are bit-identical up to the step at which they part. Stepped once per optimizer step.

    Args:
        optimizer: the optimizer whose learning rates are the peak rates.
        warmup: the fraction of all steps spent warming up, 0 to 1.
        hold: the fraction of all steps, including warm-up, before the rate falls, 0 to 1; 1 never lowers it.
        final: the last rate as a fraction :math:`f` of the peak, 0 to 1.
        total_steps: all optimizer steps, 1 or more; None takes them from the trainer.

    Raises:
        ValueError: a fraction is outside 0 to 1.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup: float = 0.1,
        hold: float = 0.6,
        final: float = 0.0,
        total_steps: int | None = None,
    ) -> None:
        self.hold = hold
        super().__init__(optimizer, warmup, final, total_steps, hold=hold)

    def _curve(self, step: int, total_steps: int) -> float:
        warmup_steps = self._warmup_steps(total_steps)
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        held = max(warmup_steps, round(self.hold * total_steps))
        if step < held:
            return 1.0
        progress = min(1.0, (step - held) / max(1, total_steps - held))
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2
