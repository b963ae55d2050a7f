"""Which samples an epoch draws while only a share of them is admitted, and in what order they are admitted.

An epoch always has as many batches, of the same sizes, as one without a curriculum: arms of a comparison get equal
optimizer steps and equal samples. It is filled with *passes*. A pass visits every sample that is admitted at its first
batch exactly once, in a new random order; the next pass follows where it ends, and the last one is cut off at the end
of the epoch. With everything admitted an epoch is one pass, and the very epoch of `TrainSampler`.

Shape suffixes: N samples of the training part.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from plcourse.data import TrainSampler, permutation
from plcourse.errors import UserError

Order = Literal["easy_first", "hard_first", "random"]
Share = Callable[[int, int], float]
_RANDOM_ORDER = -1  # an epoch that no run has: keeps the random ranking independent of every epoch's draws
_PASS = 1 << 32  # epochs apart: keeps the passes of an epoch independent of each other and of other epochs


def rank_samples(
    order: Order, scores_N: np.ndarray | None, labels_N: np.ndarray, balanced: bool, seed: int
) -> np.ndarray:
    """The order in which samples are admitted.

    Args:
        order: ``easy_first`` by rising score, ``hard_first`` by falling score, ``random`` by the seed.
        scores_N: float64, larger is harder; without them every order is random.
        labels_N: int64, for `balanced`.
        balanced: admit from every class its own first share, so that each share of the whole has the classes in the
            proportions of the whole, to within one sample of each.
        seed: the run's seed; samples with equal scores are ordered by it too.

    Returns:
        int64 [N], a permutation: first the sample that is admitted first.
    """
    shuffled_N = permutation(seed, _RANDOM_ORDER, len(labels_N))
    if order == "random" or scores_N is None:
        ranking_N = shuffled_N
    else:
        key_N = scores_N[shuffled_N] if order == "easy_first" else -scores_N[shuffled_N]
        ranking_N = shuffled_N[np.argsort(key_N, kind="stable")]
    if not balanced:
        return ranking_N
    place_N = np.empty(len(labels_N))
    for label in np.unique(labels_N):
        (of_class,) = np.nonzero(labels_N[ranking_N] == label)
        place_N[of_class] = (np.arange(len(of_class)) + 0.5) / len(of_class)
    return ranking_N[np.argsort(place_N, kind="stable")]


@dataclass(frozen=True)
class EpochPlan:
    """What one epoch draws.

    Attributes:
        draws: int64 [N], sample numbers in the order in which they are drawn.
        passes: (first draw, samples admitted) of each pass.
    """

    draws: np.ndarray
    passes: list[tuple[int, int]]

    def admitted(self, draw: int) -> int:
        """How many samples are admitted in the pass that this draw belongs to."""
        return next(admitted for first, admitted in reversed(self.passes) if first <= draw)


class CurriculumSampler:
    """A `TrainSampler` that draws from the admitted samples only; all ranks plan the same draws.

    Args:
        base: cuts each epoch into batches and batches into the ranks' slices.

    Attributes:
        ranking_N: int64, the samples in the order in which they are admitted.
    """

    def __init__(self, base: TrainSampler) -> None:
        self.base = base
        self.n, self.seed, self.global_batch_size = base.n, base.seed, base.global_batch_size
        self.ranking_N = np.arange(base.n, dtype=np.int64)
        self._share: Share = lambda epoch, batch_index: 1.0
        self._latest: tuple[int, EpochPlan] | None = None

    def begin(self, ranking_N: np.ndarray, share: Share) -> None:
        """Sets the order, and the share that is admitted at a batch of an epoch, above 0 to 1.

        A share may change as long as it is that of an epoch yet to come.
        """
        assert len(ranking_N) == self.n
        self.ranking_N, self._share = ranking_N, share
        self._latest = None

    def __len__(self) -> int:
        return len(self.base)

    def rank_weight(self, batch_index: int) -> float:
        """The weight of this process's mean in the mean over processes."""
        return self.base.rank_weight(batch_index)

    def samples(self, first: int, end: int) -> int:
        """Samples of the batches `first` to `end` - 1 over all processes."""
        return self.base.samples(first, end)

    def batches(self, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
        """This process's batches of `epoch` from number `start` on, each int64 [B] with B >= 1."""
        return self.base.cut(self.plan(epoch).draws, start)

    def share(self, epoch: int, batch_index: int) -> float:
        """The share of the samples that this batch is drawn from; where two passes meet, that of the first."""
        return self.plan(epoch).admitted(batch_index * self.global_batch_size) / self.n

    def plan(self, epoch: int) -> EpochPlan:
        """The draws of an epoch, a function of seed, order, shares and epoch.

        Raises:
            UserError: a share that admits less than one batch.
        """
        if self._latest is None or self._latest[0] != epoch:
            self._latest = epoch, self._plan(epoch)
        return self._latest[1]

    def _plan(self, epoch: int) -> EpochPlan:
        shuffle_epoch = epoch if self.base.reshuffle else 0
        draws_N = np.empty(self.n, np.int64)
        passes: list[tuple[int, int]] = []
        filled = 0
        while filled < self.n:
            admitted = self._admitted(self._share(epoch, filled // self.global_batch_size))
            order = permutation(self.seed, shuffle_epoch + _PASS * len(passes), admitted)
            # sorted, so that with all samples admitted the order is that of a run without a curriculum
            visited = np.sort(self.ranking_N[:admitted])[order][: self.n - filled]
            draws_N[filled : filled + len(visited)] = visited
            passes.append((filled, admitted))
            filled += len(visited)
        return EpochPlan(draws_N, passes)

    def _admitted(self, share: float) -> int:
        # 1e-9: a share such as 0.1 + 0.2 must not admit one more sample than 0.3
        admitted = min(self.n, int(np.ceil(share * self.n - 1e-9)))
        least = min(self.n, self.global_batch_size)
        if admitted < least:
            raise UserError(
                f"a share of {share:.4g} admits {admitted} of {self.n} samples, fewer than one batch of {least}: "
                f"use a start of at least {np.ceil(least / self.n * 1e4) / 1e4:.4g}, or smaller batches"
            )
        return admitted
