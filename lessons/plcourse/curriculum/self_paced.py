"""Self-paced learning: the model's own losses decide, batch by batch, which samples it is ready for.

Kumar, Packer and Koller 2010 (Self-Paced Learning for Latent Variable Models) minimise over the weights of the
model *and* over weights v of the samples

    sum over i of v_i * loss_i  -  age * sum over i of v_i        v_i in {0, 1}

For fixed losses the minimum is ``v_i = 1 where loss_i < age, else 0``. The age grows, so that ever harder samples join.
Jiang et al. 2014 (Easy Samples First) let v_i take values between: ``v_i = max(0, 1 - loss_i / age)``.

Shape suffixes: B samples of a batch.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

Weighting = Literal["hard", "linear"]


@dataclass(frozen=True)
class Weigher:
    """The sample weights at one age.

    Attributes:
        age: losses below it count, in nats; infinite while everything counts.
        weighting: ``hard`` or ``linear``.
    """

    age: float
    weighting: Weighting

    def __call__(self, loss_B: Tensor) -> Tensor:
        """The weights of samples with these losses, in [0, 1]; a function of each sample alone."""
        if math.isinf(self.age):
            return loss_B.new_ones(loss_B.shape)
        if self.weighting == "hard":
            return (loss_B < self.age).to(loss_B.dtype)
        return (1 - loss_B / self.age).clamp(min=0)


class SelfPacing:
    """How the age grows: not at all during the warm-up, then by a factor per epoch.

    Args:
        age: the age of the first epoch after the warm-up, in nats, above 0.
        growth: the factor per epoch, 1 or more.
        warmup_epochs: epochs in which everything counts, 0 or more. A fresh model's losses are all near the
            logarithm of the number of classes: with a smaller age from the start nothing would ever be selected.
        weighting: ``hard`` (Kumar et al. 2010) or ``linear`` (Jiang et al. 2014).

    Raises:
        ValueError: an argument outside its range.
    """

    def __init__(
        self, age: float = 0.5, growth: float = 1.3, warmup_epochs: int = 1, weighting: Weighting = "hard"
    ) -> None:
        if age <= 0:
            raise ValueError(f"age is {age}; it is a loss in nats, above 0")
        if growth < 1:
            raise ValueError(f"growth is {growth}; it is a factor of 1 or more: the age never shrinks")
        if warmup_epochs < 0:
            raise ValueError(f"warmup_epochs is {warmup_epochs}; it is 0 or more")
        self.age, self.growth, self.warmup_epochs = age, growth, warmup_epochs
        self.weighting: Weighting = weighting

    def weigher(self, epoch: int) -> Weigher:
        """The weights' rule in an epoch, counted from 0."""
        grown = epoch - self.warmup_epochs
        if grown < 0:
            return Weigher(math.inf, self.weighting)
        log_age = math.log(self.age) + grown * math.log(self.growth)
        return Weigher(math.exp(min(log_age, 700.0)), self.weighting)  # beyond it floating point has no numbers

    def settings(self) -> dict[str, Any]:
        """What a resumed run must not change, in plain types."""
        names = ("age", "growth", "warmup_epochs", "weighting")
        return {name: getattr(self, name) for name in names}
