"""Bootstrap intervals. No torch; numpy and scipy are imported when they are used."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from plcourse.stats.significance import ROUNDING

if TYPE_CHECKING:
    import numpy as np

_CHUNK = 1 << 22  # resampled values held at once, 32 MiB in double precision


def bootstrap_interval(
    samples: "np.ndarray",
    statistic: "Callable[[np.ndarray], float] | None" = None,
    *,
    confidence: float = 0.95,
    method: Literal["bca", "percentile"] = "bca",
    n_resamples: int = 9999,
    seed: int = 0,
) -> tuple[float, float]:
    """Computes an interval for a score on one test set, or for the difference of two models on it.

    Rows are drawn with replacement and stay together, so the interval is paired: for two models, give their per-sample
    differences, or both columns and a statistic of them. It covers the choice of the test samples, not the randomness
    of training, which takes several seeds.

    ``bca`` corrects bias and skewness: its coverage error shrinks with 1/N, that of ``percentile`` with 1/sqrt(N)
    (Efron 1987, JASA 82:171; DiCiccio and Efron 1996, Statistical Science 11:189; equations 14.10, 14.14 and 14.15 of
    Efron and Tibshirani 1993). This matters for error rates near 0, which are skewed. ``percentile`` is for statistics
    whose jackknife is too slow or fails, as that of a median does. Neither is reliable below about 20 samples.

    Args:
        samples: [N] or [N, ...], one row per independent test sample, finite.
        statistic: maps rows to a number; None for the mean of an [N] array, which is far faster.
        confidence: coverage of the interval, between 0 and 1.
        method: ``bca`` or ``percentile``.
        n_resamples: bootstrap resamples, 100 or more.
        seed: seed of the resampling.

    Returns:
        Both ends; they equal the score if all resamples agree.

    Raises:
        ValueError: fewer than two rows, values that are not finite, or an argument outside its range.
    """
    import numpy as np
    from scipy.special import ndtr, ndtri

    samples = np.asarray(samples)
    _check_bootstrap(samples, statistic is None, confidence, method, n_resamples)
    rng = np.random.default_rng(seed)
    if statistic is None:
        samples = samples.astype(np.float64)
        score, draws = float(samples.mean()), _resampled_means(samples, n_resamples, rng)
    else:
        n = len(samples)
        score = float(statistic(samples))
        draws = np.array([statistic(samples[rng.integers(n, size=n)]) for _ in range(n_resamples)], dtype=np.float64)
    if not (np.isfinite(draws).all() and math.isfinite(score)):
        raise ValueError("the statistic is not finite on some resamples; define it for every draw of rows")
    tail_2 = np.array([(1 - confidence) / 2, (1 + confidence) / 2])
    if np.ptp(draws) <= ROUNDING * max(abs(score), np.abs(samples).max() if statistic is None else 0.0):
        return score, score
    if method == "bca":
        # Ties count half: scores of few samples take few values.
        below = float(((draws < score).mean() + (draws <= score).mean()) / 2)
        below = min(max(below, 0.5 / n_resamples), 1 - 0.5 / n_resamples)
        bias = ndtri(below)
        shifted_2 = bias + ndtri(tail_2)
        tail_2 = ndtr(bias + shifted_2 / (1 - _acceleration(samples, statistic) * shifted_2))
    low, high = np.quantile(draws, tail_2)
    return float(low), float(high)


def _check_bootstrap(samples: "np.ndarray", mean: bool, confidence: float, method: str, n_resamples: int) -> None:
    import numpy as np

    if samples.ndim < 1 or len(samples) < 2:
        raise ValueError(f"samples of shape {samples.shape}: give 2 rows or more")
    if mean and samples.ndim != 1:
        raise ValueError(f"samples of shape {samples.shape}: the mean takes one value per row; give a statistic")
    if samples.dtype.kind in "fc" and not np.isfinite(samples).all():
        raise ValueError("samples hold values that are not finite")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: give a coverage between 0 and 1, such as 0.95")
    if method not in ("bca", "percentile"):
        raise ValueError(f"method={method!r}: give 'bca' or 'percentile'")
    if n_resamples < 100:
        raise ValueError(f"n_resamples={n_resamples}: give 100 or more, 9999 for two digits of an end")


def _resampled_means(values_N: "np.ndarray", n_resamples: int, rng: "np.random.Generator") -> "np.ndarray":
    import numpy as np

    n = len(values_N)
    rows = max(1, _CHUNK // n)
    parts = [
        values_N[rng.integers(n, size=(min(rows, n_resamples - done), n))].mean(axis=1)
        for done in range(0, n_resamples, rows)
    ]
    return np.concatenate(parts)


def _acceleration(samples: "np.ndarray", statistic: "Callable[[np.ndarray], float] | None") -> float:
    """The jackknife estimate of the acceleration (Efron and Tibshirani 1993, equation 14.15)."""
    import numpy as np

    n = len(samples)
    if statistic is None:
        left_out_N = (samples.sum() - samples) / (n - 1)
    else:
        left_out_N = np.array([statistic(np.delete(samples, i, axis=0)) for i in range(n)], dtype=np.float64)
        if not np.isfinite(left_out_N).all():
            raise ValueError("the statistic is not finite when one row is left out; take method='percentile'")
    deviation_N = left_out_N.mean() - left_out_N
    spread = float((deviation_N**2).sum())
    return float((deviation_N**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
