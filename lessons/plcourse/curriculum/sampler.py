"""Draws the samples of an epoch while only a fraction of them is admitted, and ranks them for admission.

Every epoch has as many batches, of the same sizes, as one without a curriculum, so that the arms of a comparison get
equal optimizer steps and equal samples. It consists of *passes*. A pass visits each sample that is admitted at its
first batch exactly once, in a new random order. The next pass starts where it ends; the last one is cut off at the end
of the epoch. When everything is admitted, an epoch is one pass and equals the epoch of `TrainSampler`.

Shape suffixes: N samples of the training part.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from plcourse.data import TrainSampler, permutation
from plcourse.errors import UserError

Order = Literal["easy_first", "hard_first", "random"]
_RANDOM_ORDER = -1  # an epoch that no run has, so that the random ranking is independent of every epoch's draws
_PASS = 1 << 32  # an offset in epochs, so that the passes of all epochs are independent of each other


def rank_samples(
    order: Order, scores_N: np.ndarray | None, labels_N: np.ndarray, balanced: bool, seed: int
) -> np.ndarray:
    """The order in which samples are admitted: int64 [N], a permutation.

    Args:
        order: ``easy_first`` by ascending score, ``hard_first`` by descending score, ``random`` by the seed.
        scores_N: float64, larger is harder; without scores every order is random.
        labels_N: int64, for `balanced`.
        balanced: admit every class at the same rate, so that any admitted fraction has the class proportions of the
            whole, to within one sample per class.
        seed: the run's seed; it also orders samples with equal scores.
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
    """The draws of one epoch."""

    draws: np.ndarray  # int64 [N], sample numbers
    passes: list[tuple[int, int]]  # (first draw, number of admitted samples)

    def admitted(self, draw: int) -> int:
        """The number of admitted samples in the pass of a draw."""
        return next(admitted for first, admitted in reversed(self.passes) if first <= draw)


class CurriculumSampler(TrainSampler):
    """A `TrainSampler` that draws only from the admitted samples; all ranks plan the same draws."""

    def __init__(self, base: TrainSampler) -> None:
        vars(self).update(vars(base))  # the same seed, and batches of the same sizes
        self.begin(np.arange(base.n, dtype=np.int64), lambda epoch, batch_index: 1.0)

    def begin(self, ranking_N: np.ndarray, fraction: Callable[[int, int], float]) -> None:
        """Sets the order of admission (see `rank_samples`) and the pace.

        ``fraction`` maps epoch and batch to the admitted fraction, above 0 to 1. It may change for later epochs.
        """
        assert len(ranking_N) == self.n
        self.ranking_N, self._fraction = ranking_N, fraction
        self._latest: tuple[int, EpochPlan] | None = None

    def batches(self, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
        """This process's batches of an epoch from number `start` on, each int64 [B] with B >= 1."""
        return self.cut(self.plan(epoch).draws, start)

    def fraction(self, epoch: int, batch_index: int) -> float:
        """The fraction of the samples that a batch is drawn from; where two passes meet, that of the first."""
        return self.plan(epoch).admitted(batch_index * self.global_batch_size) / self.n

    def plan(self, epoch: int) -> EpochPlan:
        """The draws of an epoch, a function of seed, order, pace and epoch."""
        if self._latest is None or self._latest[0] != epoch:
            self._latest = epoch, self._plan(epoch)
        return self._latest[1]

    def _plan(self, epoch: int) -> EpochPlan:
        shuffle_epoch = epoch if self.reshuffle else 0
        draws_N = np.empty(self.n, np.int64)
        passes: list[tuple[int, int]] = []
        filled = 0
        while filled < self.n:
            admitted = self._admitted(self._fraction(epoch, filled // self.global_batch_size))
            order = permutation(self.seed, shuffle_epoch + _PASS * len(passes), admitted)
            # sorted, so that with all samples admitted the order equals that of a run without a curriculum
            visited = np.sort(self.ranking_N[:admitted])[order][: self.n - filled]
            draws_N[filled : filled + len(visited)] = visited
            passes.append((filled, admitted))
            filled += len(visited)
        return EpochPlan(draws_N, passes)

    def _admitted(self, fraction: float) -> int:
        # 1e-9: a fraction such as 0.1 + 0.2 must not admit one more sample than 0.3
        admitted = min(self.n, int(np.ceil(fraction * self.n - 1e-9)))
        least = min(self.n, self.global_batch_size)
        if admitted < least:
            raise UserError(
                f"a fraction of {fraction:.4g} admits {admitted} of {self.n} samples, fewer than one batch of {least}: "
                f"use a start of at least {np.ceil(least / self.n * 1e4) / 1e4:.4g}, or smaller batches"
            )
        return admitted
