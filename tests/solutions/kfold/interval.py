"""A solution of the exercise kfold/interval."""

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev

from scipy.stats import t


def interval(scores: Sequence[float], n_train: int, n_test: int, confidence: float = 0.95) -> tuple[float, float]:
    """Returns both ends of the confidence interval of the mean.

    Args:
        scores: one score per fold and repeat, 2 or more.
        n_train: training samples of each fold.
        n_test: scored samples of each fold.
        confidence: coverage, between 0 and 1.
    """
    n = len(scores)
    half = float(t.ppf((1 + confidence) / 2, n - 1)) * stdev(scores) * sqrt(1 / n + n_test / n_train)
    return fmean(scores) - half, fmean(scores) + half
