"""Which batches make one optimizer step, so that an accumulated step averages over the samples it really has."""

import math
from dataclasses import dataclass
from typing import Any

from pytorch_lightning import Trainer


@dataclass(frozen=True)
class Accumulation:
    """The optimizer steps of a trainer that accumulates the gradients of several batches.

    Lightning divides each loss by ``accumulate_grad_batches``, even if fewer batches are left for a step; this class
    corrects that. It asks the trainer at every batch, because a schedule may change the number with the epoch.

    Args:
        trainer: trains on the batches.
    """

    trainer: Trainer

    @property
    def batches(self) -> int:
        """The number that Lightning divides by, 1 or more."""
        return self.trainer.accumulate_grad_batches

    def end(self, batch_index: int, n_batches: int) -> int:
        """The number of the batch that begins the next step.

        Args:
            batch_index: a batch of the epoch, from 0.
            n_batches: the batches of an epoch; the trainer may take fewer, because of ``limit_train_batches`` or
                ``overfit_batches``.
        """
        limit = min(n_batches, self.trainer.num_training_batches)
        planned = (batch_index // self.batches + 1) * self.batches
        return max(batch_index + 1, int(min(planned, limit)))

    def weight(self, sampler: Any, batch_index: int, first: int, end: int) -> float:
        """The factor of a batch that makes the mean over the batches of its step the mean over their samples.

        Args:
            sampler: the sampler; if it has no ``samples``, Lightning's division is kept.
            batch_index: the batch.
            first: the first batch of its step.
            end: the first batch of the next step.
        """
        samples = getattr(sampler, "samples", None)
        if self.batches == 1 or samples is None:
            return 1.0
        return self.batches * samples(batch_index, batch_index + 1) / samples(first, end)


def planned_batches(trainer: Trainer, max_epochs: int | None, max_steps: int) -> float:
    """The number of training batches of a whole run with a limit in epochs or optimizer steps; infinity without one.

    Args:
        trainer: a trainer that already has its training data.
        max_epochs: None or -1 for no limit.
        max_steps: -1 for no limit.
    """
    batches, per_step = trainer.num_training_batches, trainer.accumulate_grad_batches
    by_epochs = math.inf if max_epochs in (None, -1) else max_epochs * batches
    if max_steps < 0:
        return by_epochs
    if math.isinf(batches):
        return min(by_epochs, max_steps * per_step)
    epochs, steps = divmod(max_steps, max(1, math.ceil(batches / per_step)))
    return min(by_epochs, epochs * batches + min(batches, steps * per_step))
