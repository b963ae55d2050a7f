"""The statistics of a comparison, each with its source and its assumptions. No torch; scipy is imported when used.

A pair is two scores under the same conditions, such as the same seed and fold. Its difference is free of the variation
that both scores share, so a few pairs can show what many unpaired scores cannot.

=============================  ==========================================  =============================
what varies between the pairs  function                                    what the result covers
=============================  ==========================================  =============================
the seed of the training       `paired_t_test`                             other seeds, on these data
fold, or train/test split      `corrected_resampled_t_test`                other samples of the same kind
nothing: one test set          `bootstrap.bootstrap_interval`              other test sets, these two models
=============================  ==========================================  =============================
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

ROUNDING = 16 * 2.0**-52  # differences that agree up to this, relative to the scores, are equal
_MOST_PAIRS = 1_000_000


@dataclass(frozen=True)
class PairedTest:
    """The result of a test on n pairs.

    Attributes:
        state: ``tested``; ``too_few``: fewer than two pairs; ``identical``: all differences are zero; ``constant``: all
            differences are equal, but not zero. Only ``tested`` has an interval and a p-value: a variance of zero
            occurs by chance with coarse scores and proves nothing.
    """

    state: Literal["tested", "too_few", "identical", "constant"]
    n: int  # number of pairs
    confidence: float  # nominal coverage of the interval, such as 0.95
    difference: float | None  # mean of score minus baseline; None without pairs
    sd: float | None = None  # standard deviation of the differences, with n - 1; None below two pairs
    low: float | None = None  # lower end of the interval of the mean difference, or None
    high: float | None = None  # upper end, or None
    t: float | None = None  # the statistic, or None
    df: int | None = None  # its degrees of freedom, n - 1, or None
    p: float | None = None  # two-sided p-value, or None
    variance_factor: float | None = None  # factor of the differences' variance in that of their mean, 1/n or more
    effect_size: float | None = None  # see `effect_size`; None where it is not defined


def paired_t_test(scores: Sequence[float], baseline: Sequence[float], confidence: float = 0.95) -> PairedTest:
    """Student's paired t-test and interval, for independent pairs such as seeds.

    Assumes that the differences are independent and normally distributed. Over seeds on one split they are
    independent, and the result covers other seeds on that split only.

    Args:
        scores: n scores of an arm.
        baseline: n scores of the baseline, in the same order.
        confidence: coverage of the interval, between 0 and 1.

    Raises:
        ValueError: scores of different lengths or not finite, or a confidence outside (0, 1).
    """
    return _t_test(scores, baseline, 0.0, confidence)


def corrected_resampled_t_test(
    scores: Sequence[float], baseline: Sequence[float], test_train_ratio: float, confidence: float = 0.95
) -> PairedTest:
    """The t-test for folds and repeated splits, whose training sets overlap.

    Overlapping training sets correlate the differences, so their spread understates the variance of their mean and the
    paired t-test reports differences that do not exist (Dietterich 1998, Neural Computation 10:1895). The corrected
    resampled t-test of Nadeau and Bengio (2003, Machine Learning 52:239) assumes a correlation of
    n_test / (n_train + n_test), which gives the variance a factor of 1/n + n_test/n_train instead of 1/n, with n - 1
    degrees of freedom. For r repetitions of k folds, n = k r: the corrected repeated k-fold test of Bouckaert and Frank
    (2004, PAKDD). The assumed correlation suits stable learners; it cannot be estimated without bias (Bengio and
    Grandvalet 2004, JMLR 5:1089).

    Args:
        scores: n scores of an arm, one per fold or split.
        baseline: n scores of the baseline, in the same order.
        test_train_ratio: n_test / n_train of one split, 0 or more; 1 / (k - 1) for k folds.
        confidence: coverage of the interval, between 0 and 1.

    Raises:
        ValueError: as for `paired_t_test`, or a negative ratio.
    """
    if not (math.isfinite(test_train_ratio) and test_train_ratio >= 0):
        raise ValueError(f"test_train_ratio={test_train_ratio}: give n_test / n_train, 0 or more")
    return _t_test(scores, baseline, test_train_ratio, confidence)


def effect_size(differences: Sequence[float]) -> float | None:
    """Cohen's d_z with Hedges' correction: the mean difference in standard deviations of the differences.

    d_z is mean / sd (Cohen 1988, section 2.3.5; Lakens 2013, Frontiers in Psychology 4:863, equation 6). It is biased
    upward in small samples, which `hedges_correction` removes. The usual labels small (0.2), medium (0.5) and large
    (0.8) do not suit seeds: a tiny difference with an even smaller spread has a large d_z.

    Returns:
        None below three differences, where the correction is not defined, and if all of them are equal.
    """
    n = len(differences)
    if n < 3:
        return None
    mean, sd = fmean(differences), stdev(differences)
    if sd <= ROUNDING * max(map(abs, differences)):
        return None
    return hedges_correction(n - 1) * mean / sd


def hedges_correction(df: int) -> float:
    """The factor J(df) that removes the bias of a standardized mean difference with 2 degrees of freedom or more.

    Gamma(df/2) / (sqrt(df/2) Gamma((df - 1)/2)), exact (Hedges 1981, Journal of Educational Statistics 6:107,
    equation 6e); about 1 - 3 / (4 df - 1).
    """
    if df < 2:
        raise ValueError(f"df={df}: the correction needs 2 degrees of freedom or more")
    return math.exp(math.lgamma(df / 2) - math.lgamma((df - 1) / 2)) / math.sqrt(df / 2)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979, Scandinavian Journal of Statistics 6:65).

    Rejecting where an adjusted value is below alpha keeps the chance of even one false rejection below alpha, however
    the tests depend on each other. Never less powerful than Bonferroni.

    Raises:
        ValueError: a value outside [0, 1].
    """
    for p in p_values:
        if not 0 <= p <= 1:
            raise ValueError(f"p={p}: a p-value lies between 0 and 1")
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def paired_power(difference: float, sd: float, n: int, alpha: float = 0.05, test_train_ratio: float = 0.0) -> float:
    """The probability that n pairs give p < alpha (two-sided) if the true mean difference is ``difference``.

    It is computed from the noncentral t distribution with n - 1 degrees of freedom. With a ``test_train_ratio`` it is
    the power of the corrected test, under that test's assumption about the correlation.

    Args:
        difference: the true mean difference; its sign does not matter.
        sd: standard deviation of the differences, above 0.
        n: number of pairs, 2 or more.
        alpha: level of the test.
        test_train_ratio: n_test / n_train for folds and repeated splits, 0 for seeds.

    Raises:
        ValueError: a value outside its range.
    """
    from scipy.special import nctdtr, stdtrit

    if not (math.isfinite(difference) and math.isfinite(sd) and sd > 0):
        raise ValueError(f"difference={difference}, sd={sd}: both must be finite and sd above 0")
    if n < 2:
        raise ValueError(f"n={n}: give 2 pairs or more")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha}: give a level between 0 and 1")
    shift = abs(difference) / (sd * math.sqrt(1 / n + test_train_ratio))
    critical = float(stdtrit(n - 1, 1 - alpha / 2))
    missed = float(nctdtr(n - 1, shift, critical))
    if not math.isfinite(missed):  # the shift is too large for the algorithm
        return 1.0 if shift > critical else 0.0
    wrong_side = float(nctdtr(n - 1, shift, -critical))
    if not math.isfinite(wrong_side):  # too small for the algorithm
        wrong_side = 0.0
    return min(1.0, max(0.0, 1 - missed + wrong_side))


def required_pairs(
    difference: float, sd: float, alpha: float = 0.05, power: float = 0.8, test_train_ratio: float = 0.0
) -> int | None:
    """The smallest number of pairs with the given power, between 0 and 1; see `paired_power` for the arguments.

    The number is for planning only: the observed difference and sd are estimates, and poor ones for few pairs.

    Returns:
        None if a million pairs are not enough. This is common for folds and repeated splits: they reuse the same
        samples, so their mean keeps a variance of sd^2 n_test / n_train however many there are.
    """
    if not 0 < power < 1:
        raise ValueError(f"power={power}: give a probability between 0 and 1")

    def enough(n: int) -> bool:
        return paired_power(difference, sd, n, alpha, test_train_ratio) >= power

    high = 2
    while not enough(high):
        if high >= _MOST_PAIRS:
            return None
        high = min(2 * high, _MOST_PAIRS)
    return bisect_left(range(high), True, high // 2 + 1, key=enough)  # half of it is not enough


def _t_test(scores: Sequence[float], baseline: Sequence[float], ratio: float, confidence: float) -> PairedTest:
    if len(scores) != len(baseline):
        raise ValueError(f"{len(scores)} scores but {len(baseline)} of the baseline: pairs need equally many")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: give a coverage between 0 and 1, such as 0.95")
    for value in (*scores, *baseline):
        if not math.isfinite(value):
            raise ValueError(f"a score is {value}: leave its pair out, and report that")
    differences = [score - other for score, other in zip(scores, baseline, strict=True)]
    n = len(differences)
    mean = fmean(differences) if n else None
    if n < 2:
        return PairedTest("too_few", n, confidence, mean)
    assert mean is not None
    if not any(differences):
        return PairedTest("identical", n, confidence, 0.0, 0.0)
    sd = stdev(differences)
    if sd <= ROUNDING * max(map(abs, (*scores, *baseline))):
        return PairedTest("constant", n, confidence, mean, 0.0)

    from scipy.special import stdtr, stdtrit

    factor = 1 / n + ratio
    error = sd * math.sqrt(factor)
    t = mean / error
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * error
    return PairedTest(
        "tested",
        n,
        confidence,
        difference=mean,
        sd=sd,
        low=mean - half,
        high=mean + half,
        t=t,
        df=n - 1,
        p=min(1.0, 2 * float(stdtr(n - 1, -abs(t)))),
        variance_factor=factor,
        effect_size=effect_size(differences),
    )
