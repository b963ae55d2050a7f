"""Which samples go into which batch, on which process; each sample of an epoch is on exactly one process.

Lightning's distributed sampler repeats samples until all processes have the same number, which falsifies test metrics
(66 samples counted of 65).
"""

from collections.abc import Iterator

import numpy as np

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
        ends = [self.global_batch_size * (i + 1) for i in range(n_full)]
        if remainder and not drop_last:
            if remainder < world_size and ends:
                ends[-1] = n
            else:
                ends.append(n)
        self._bounds = [0, *ends]

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
