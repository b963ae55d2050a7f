"""Self-paced learning: the model's own losses decide, batch by batch, which samples count.

Kumar, Packer and Koller 2010 (Self-Paced Learning for Latent Variable Models) minimize over the weights of the model
*and* over sample weights v

    sum over i of v_i * loss_i  -  age * sum over i of v_i        v_i in {0, 1}

For fixed losses the minimum is ``v_i = 1 if loss_i < age else 0``. The age grows, so that harder samples join in.
Jiang et al. 2014 (Easy Samples First) allow weights in between: ``v_i = max(0, 1 - loss_i / age)``.

Shape suffixes: B samples of a batch.
"""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Weighting = Literal["hard", "linear"]


@dataclass(frozen=True)
class Weigher:
    """Maps losses to sample weights at one age."""

    age: float  # losses below it count, in nats; infinite if all count
    weighting: Weighting

    def __call__(self, loss_B: Tensor) -> Tensor:
        """The weights of samples with these losses, in [0, 1]; each depends on its sample alone."""
        if math.isinf(self.age):
            return loss_B.new_ones(loss_B.shape)
        if self.weighting == "hard":
            return (loss_B < self.age).to(loss_B.dtype)
        return (1 - loss_B / self.age).clamp(min=0)


class SelfPacing:
    """Sample weights by an age that grows by a factor per epoch after a warm-up.

    Args:
        age: the age of the first epoch after the warm-up, in nats, above 0.
        growth: the factor per epoch, 1 or more.
        warmup_epochs: epochs in which all samples count, 0 or more. The losses of a fresh model are all near the
            logarithm of the number of classes, so that a smaller age would never select any sample without a warm-up.
        weighting: ``hard`` (Kumar et al. 2010) or ``linear`` (Jiang et al. 2014).

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self, age: float = 0.5, growth: float = 1.3, warmup_epochs: int = 1, weighting: Weighting = "hard"
    ) -> None:
        if age <= 0:
            raise ValueError(f"age is {age}; it is a loss in nats and must be above 0")
        if growth < 1:
            raise ValueError(f"growth is {growth}; it must be 1 or more, since the age never decreases")
        if warmup_epochs < 0:
            raise ValueError(f"warmup_epochs is {warmup_epochs}; it must be 0 or more")
        self.age, self.growth, self.warmup_epochs = age, growth, warmup_epochs
        self.weighting: Weighting = weighting

    def weigher(self, epoch: int) -> Weigher:
        """The weigher of an epoch, counted from 0."""
        grown = epoch - self.warmup_epochs
        if grown < 0:
            return Weigher(math.inf, self.weighting)
        log_age = math.log(self.age) + grown * math.log(self.growth)
        return Weigher(math.exp(min(log_age, 700.0)), self.weighting)  # exp overflows above

    def settings(self) -> dict[str, object]:
        """The settings that a resumed run must not change, in plain types."""
        names = ("age", "growth", "warmup_epochs", "weighting")
        return {name: getattr(self, name) for name in names}
