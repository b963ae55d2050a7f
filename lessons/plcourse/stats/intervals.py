"""Intervals cut to the range of a score, for callers that must start without numpy."""

import math
import re
from statistics import NormalDist

# Words of a metric's name, such as ``iou`` in ``test/foreground_iou`` or ``test/iou_cat``.
_FRACTION = re.compile(r"accuracy|f1|iou|dice|precision|recall|auroc|auc|selected|share|tv", re.IGNORECASE)
_NOT_NEGATIVE = re.compile(r"loss|rmse|mae|mse|error|nll|frechet|perplexity|ece|brier|bits", re.IGNORECASE)


def score_range(metric: str) -> tuple[float, float]:
    """The smallest and the largest value of a metric by its name; infinite if the name does not tell."""
    words = re.split(r"[^a-z0-9]|_", metric.rpartition("/")[2].lower())
    if any(map(_FRACTION.fullmatch, words)):
        return 0.0, 1.0
    return (0.0 if any(map(_NOT_NEGATIVE.fullmatch, words)) else -math.inf), math.inf


def within(metric: str, low: float | None, high: float | None, value: float) -> tuple[float | None, float | None]:
    """Cuts the interval of a metric's value, or of its mean, to the range of the metric; None stands for no interval.

    If the value itself is outside the range, the metric's name is misleading and nothing is cut.
    """
    smallest, largest = score_range(metric)
    if low is None or high is None or not smallest <= value <= largest:
        return low, high
    return max(low, smallest), min(high, largest)


def within_difference(metric: str, low: float | None, high: float | None) -> tuple[float | None, float | None]:
    """Cuts the interval of a difference of two values of the metric to its range."""
    smallest, largest = score_range(metric)
    if low is None or high is None:
        return low, high
    return max(low, smallest - largest), min(high, largest - smallest)


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of a binomial fraction, accurate near 0 and 1 too; n is 1 or more (Wilson 1927)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    center = (successes + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * (successes * (n - successes) / n + z * z / 4) ** 0.5
    return max(0.0, center - half), min(1.0, center + half)
