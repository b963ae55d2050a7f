"""Intervals of scores that end where the scores do, for callers that must start without numpy."""

import math
import re
from statistics import NormalDist

# by the last part of the name, such as the ``iou`` of ``test/foreground_iou`` or of ``test/iou_cat``
_SHARE = re.compile(r"accuracy|f1|iou|dice|precision|recall|auroc|auc|selected|share|tv", re.IGNORECASE)
_NOT_NEGATIVE = re.compile(r"loss|rmse|mae|mse|error|nll|frechet|perplexity|ece|brier|bits", re.IGNORECASE)


def ends(metric: str) -> tuple[float, float]:
    """The smallest and the largest value that a metric of this name can have; infinite where the name does not tell."""
    words = re.split(r"[^a-z0-9]|_", metric.rpartition("/")[2].lower())
    if any(map(_SHARE.fullmatch, words)):
        return 0.0, 1.0
    return (0.0 if any(map(_NOT_NEGATIVE.fullmatch, words)) else -math.inf), math.inf


def within(metric: str, low: float | None, high: float | None, value: float) -> tuple[float | None, float | None]:
    """The ends of an interval of a metric's value, or mean value, cut to what the metric can be.

    Args:
        metric: its name.
        low: None where there is no interval.
        high: the same.
        value: what the interval is around; one outside the range shows that the name does not mean what it seems to.
    """
    smallest, largest = ends(metric)
    if low is None or high is None or not smallest <= value <= largest:
        return low, high
    return max(low, smallest), min(high, largest)


def within_difference(metric: str, low: float | None, high: float | None) -> tuple[float | None, float | None]:
    """The same for the difference of two values of the metric."""
    smallest, largest = ends(metric)
    if low is None or high is None:
        return low, high
    return max(low, smallest - largest), min(high, largest - smallest)


def wilson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a share that holds also near 0 and 1, for n of 1 or more (Wilson 1927)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (successes + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * (successes * (n - successes) / n + z * z / 4) ** 0.5
    return max(0.0, centre - half), min(1.0, centre + half)
