"""Which samples go into which batch, on which process, and which batches make one optimizer step.

Each sample of an epoch is on exactly one process. Lightning's distributed sampler repeats samples until all
processes have the same number, which falsifies test metrics (66 samples counted of 65).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pytorch_lightning import Trainer

from plcourse.data.protocols import BatchSampler
from plcourse.data.randoms import permutation
from plcourse.errors import UserError


def _check(n: int, batch_size: int, rank: int, world_size: int) -> None:
    if n < 0:
        raise ValueError(f"n={n} samples: give 0 or more")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: give 1 or more")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank={rank} of world_size={world_size}: ranks are 0 to world_size - 1")


class TrainSampler:
    """Shuffled batches; every process takes the same number of steps and has at least one sample in each.

    An epoch is one permutation, the same on all processes, cut into global batches of ``batch_size * world_size``; each
    global batch is cut into ``world_size`` contiguous slices whose lengths differ by at most one. The last global batch
    holds the remainder. A remainder smaller than ``world_size`` cannot give every process a sample, and is added to the
    batch before it.

    Args:
        n: samples in the training part.
        batch_size: samples per batch and process.
        seed: fixes the permutations.
        rank: this process.
        world_size: the number of processes.
        drop_last: leaves out the remainder of each epoch.
        reshuffle: False visits the samples in the order of epoch 0 in every epoch, for runs that overfit a few batches.

    Raises:
        ValueError: an argument out of its range.
        UserError: fewer samples than processes, or than one global batch with `drop_last`.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        reshuffle: bool = True,
    ) -> None:
        _check(n, batch_size, rank, world_size)
        if n < world_size:
            raise UserError(f"{n} training samples for {world_size} processes: use at most {n} processes")
        self.n = n
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.global_batch_size = batch_size * world_size
        self.reshuffle = reshuffle
        n_full, remainder = divmod(n, self.global_batch_size)
        if drop_last and n_full == 0:
            raise UserError(
                f"drop_last leaves no batch of {batch_size} x {world_size} processes of {n} samples: "
                f"use batch_size at most {n // world_size}"
            )
        self._bounds = list(range(0, n - remainder + 1, self.global_batch_size))
        if remainder and not drop_last:
            if remainder < world_size and n_full:
                self._bounds.pop()
            self._bounds.append(n)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def samples(self, first: int, end: int) -> int:
        """Samples of the batches `first` to `end` - 1 over all processes."""
        return self._bounds[end] - self._bounds[first]

    def _slice(self, batch_index: int) -> tuple[int, int]:
        length, extra = divmod(self.samples(batch_index, batch_index + 1), self.world_size)
        start = self._bounds[batch_index] + self.rank * length + min(self.rank, extra)
        return start, start + length + (self.rank < extra)

    def rank_weight(self, batch_index: int) -> float:
        """The factor of this process's mean loss in batch `batch_index`: n_rank * world_size / n_batch.

        n_batch counts the samples of the batch over all processes, so that DDP's mean over processes is the mean over
        those samples. `Accumulation` has the factor for a step of several batches.
        """
        start, end = self._slice(batch_index)
        return (end - start) * self.world_size / self.samples(batch_index, batch_index + 1)

    def batches(self, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
        """This process's batches of `epoch` from number `start` on, each int64 [B] with B >= 1."""
        return self.cut(self.order(epoch), start)

    def order(self, epoch: int) -> np.ndarray:
        """The order in which `epoch` visits the samples, int64 [n]."""
        return permutation(self.seed, epoch if self.reshuffle else 0, self.n)

    def cut(self, order: np.ndarray, start: int = 0) -> Iterator[np.ndarray]:
        """This process's batches of any order of an epoch (int64 [n]), from number `start` on."""
        for batch_index in range(start, len(self)):
            begin, end = self._slice(batch_index)
            yield order[begin:end]


class EvalSampler:
    """Each sample once, in order, on exactly one process; a process may have no batch at all.

    Process r takes the r-th of `world_size` contiguous blocks, so that the processes' results in rank order are in
    sample order. Block lengths differ by at most one, and the longer blocks come first.

    Args:
        n: the number of samples, 0 or more.
        batch_size: samples per batch and process.
        rank: this process.
        world_size: the number of processes.
    """

    seed = 0  # nothing is drawn

    def __init__(self, n: int, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        _check(n, batch_size, rank, world_size)
        self.n = n
        self.batch_size = batch_size
        self.global_batch_size = batch_size * world_size
        length, extra = divmod(n, world_size)
        self.start = rank * length + min(rank, extra)
        self.end = self.start + length + (rank < extra)

    def __len__(self) -> int:
        return -(-(self.end - self.start) // self.batch_size)

    def rank_weight(self, batch_index: int) -> None:
        """None, because evaluation adds up counts and does not average over processes."""
        return

    def batches(self, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
        """This process's batches from number `start` on, each int64 [B], B >= 1; the same in every epoch."""
        for begin in range(self.start + start * self.batch_size, self.end, self.batch_size):
            yield np.arange(begin, min(begin + self.batch_size, self.end), dtype=np.int64)


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
        """The number of the batch that begins the step after that of `batch_index`, in an epoch of `n_batches`.

        The trainer may take fewer batches, because of ``limit_train_batches`` or ``overfit_batches``.
        """
        limit = min(n_batches, self.trainer.num_training_batches)
        planned = (batch_index // self.batches + 1) * self.batches
        return max(batch_index + 1, int(min(planned, limit)))

    def weight(self, sampler: BatchSampler, batch_index: int, first: int, end: int) -> float:
        """The factor of a batch that makes the mean over the batches of its step the mean over their samples.

        The step takes the batches `first` to `end` - 1. A sampler without ``samples`` keeps Lightning's division.
        """
        samples = getattr(sampler, "samples", None)
        if self.batches == 1 or samples is None:
            return 1.0
        return self.batches * samples(batch_index, batch_index + 1) / samples(first, end)


def planned_batches(trainer: Trainer, max_epochs: int | None, max_steps: int) -> float:
    """The number of training batches of a whole run with a limit in epochs or optimizer steps; infinity without one.

    The trainer must already have its training data. -1 stands for no limit, and so does None for `max_epochs`.
    """
    batches, per_step = trainer.num_training_batches, trainer.accumulate_grad_batches
    by_epochs = math.inf if max_epochs in (None, -1) else max_epochs * batches
    if max_steps < 0:
        return by_epochs
    if math.isinf(batches):
        return min(by_epochs, max_steps * per_step)
    epochs, steps = divmod(max_steps, max(1, math.ceil(batches / per_step)))
    return min(by_epochs, epochs * batches + min(batches, steps * per_step))
