"""The complete result of a comparison, which the table, the JSON file, the plot and the page show, and its verdicts."""

from dataclasses import dataclass, field, replace

from plcourse.stats.significance import PairedTest, corrected_resampled_t_test, holm, required_pairs
from plcourse.verbs.compare.cells import ScoredCell, Settings
from plcourse.verbs.compare.wording import interval_name, p_value_text, plural

SCHEMA = 1
POWER = 0.8


@dataclass(frozen=True, kw_only=True)
class ArmTest(PairedTest):
    """What the pairs say about an arm and the baseline."""

    arm: str
    baseline: str
    pairs: int  # pairs of cells; `n` is smaller where the seeds of a fold or split were averaged
    baseline_mean: float | None  # mean score of the baseline's cells in these pairs
    arm_mean: float | None  # mean score of the arm's
    differences: list[float]  # [n] arm minus baseline
    test_train_ratio: float | None  # n_test / n_train of the corrected test; None for seeds
    p_naive: float | None  # the p-value without the correction; None for seeds
    p_holm: float | None = None  # the p-value adjusted for all tests of the comparison
    needed: int | None = None  # pairs that an inconclusive test would need, None if unknown or not needed
    verdict: str = ""  # the result in a word or two
    sentence: str = ""  # the result in a sentence


@dataclass
class ArmSummary:
    """The number of used scores of an arm, their mean and standard deviation."""

    arm: str
    baseline: bool
    n: int
    mean: float | None
    sd: float | None


@dataclass
class Comparison:
    """Every arm against the baseline, for one choice of grid values."""

    grid: Settings | None  # the values of `--grid_by` that these cells share, None without
    baseline: str
    unit: str  # what varies between the pairs: `seed`, `fold`, `split` or `fold of a split`
    test: str
    test_train_ratio: float | None  # of the corrected test, None for seeds
    arms: list[ArmSummary]  # the baseline first
    tests: list[ArmTest]  # one for every other arm
    cells: list[ScoredCell]  # all of them, in the order of the arms


@dataclass
class ComparisonResult:
    """All comparisons of a metric."""

    metric: str
    mode: str  # `max` or `min`
    source: str  # where the scores are from, a key of `scores.SOURCES`
    alpha: float  # level of the tests
    power: float  # power that the needed pairs would give
    difference_to_detect: float | None  # the difference that matters to the user, if given
    forced: list[str] = field(default_factory=list)  # what `--force` overruled, one line each
    notes: list[str] = field(default_factory=list)  # what a reader should know
    comparisons: list[Comparison] = field(default_factory=list)  # one, or one per value of `--grid_by`

    @property
    def tests(self) -> list[ArmTest]:
        """The tests of all comparisons."""
        return [test for comparison in self.comparisons for test in comparison.tests]

    @property
    def family_size(self) -> int:
        """The number of tests with a p-value, which Holm's adjustment covers together."""
        return sum(test.p is not None for test in self.tests)

    def as_json(self) -> Settings:
        """The result as valid JSON: no value in it is infinite or not a number."""
        comparisons = []
        for each in self.comparisons:
            tests = [{"sd_difference" if key == "sd" else key: v for key, v in vars(t).items()} for t in each.tests]
            rows = {"arms": [vars(arm) for arm in each.arms], "cells": [cell.row() for cell in each.cells]}
            comparisons.append({**vars(each), "tests": tests, **rows})
        return {"schema": SCHEMA, **vars(self), "comparisons": comparisons}


def add_verdicts(result: ComparisonResult) -> None:
    """Adjusts the p-values of all tests together (Holm) and gives each test its verdict."""
    tested = [test.p for test in result.tests if test.p is not None]
    adjusted = iter(holm(tested))
    for comparison in result.comparisons:
        judged = [replace(test, p_holm=None if test.p is None else next(adjusted)) for test in comparison.tests]
        comparison.tests = [_with_verdict(test, comparison.unit, result, len(tested)) for test in judged]


def _with_verdict(test: ArmTest, unit: str, result: ComparisonResult, family: int) -> ArmTest:
    arm, baseline, n, difference = test.arm, test.baseline, test.n, test.difference
    target, units = result.difference_to_detect, plural(n, unit)
    if test.state == "too_few":
        reason = f" from one pair; at least 2 {unit}s are needed, better 5 or more."
        if not n:
            reason = f": there is no {unit} for which it and {baseline} both have a score."
        return replace(test, verdict="nothing can be said", sentence=f"{arm}: nothing can be said{reason}")
    if test.state == "identical":
        return replace(test, verdict="identical", sentence=f"{arm} and {baseline} are identical on all {units}.")
    if test.state == "constant":
        sentence = f"{arm}: all {units} differ by exactly {difference:+.4g}, which leaves no variance to test with"
        return replace(test, verdict="no test", sentence=f"{sentence}; try more {unit}s.")
    assert difference is not None
    assert test.p_holm is not None
    interval = f"{interval_name(test.confidence)} {test.low:+.4g} to {test.high:+.4g}"
    evidence = f"{interval}, {p_value_text(test.p_holm)}{' after Holm' if family > 1 else ''}, {units}"
    if test.p_holm < result.alpha:
        verdict = "better" if (difference > 0) == (result.mode == "max") else "worse"
        sentence = f"{arm} is {verdict} than {baseline} by {abs(difference):.4g} ({evidence})."
        return replace(test, verdict=verdict, sentence=sentence)
    if target is not None and _is_within(test, target, 1 - result.alpha / family):
        sentence = f"{arm} and {baseline} differ by less than {target:g}: {difference:+.4g} ({evidence})."
        return replace(test, verdict="equivalent", sentence=sentence)
    to_detect, needed = abs(difference) if target is None else target, None
    if to_detect > 0 and test.sd is not None:
        needed = required_pairs(to_detect, test.sd, result.alpha / family, POWER, test.test_train_ratio or 0.0)
    advice = _advice(test, needed, unit, target)
    sentence = f"inconclusive: {arm} - {baseline} = {difference:+.4g} ({evidence}); {advice}"
    return replace(test, needed=needed, verdict="inconclusive", sentence=sentence)


def _is_within(test: ArmTest, target: float, confidence: float) -> bool:
    """Whether the interval, widened for all tests together, lies between minus and plus the target."""
    ratio = test.test_train_ratio or 0.0
    wide = corrected_resampled_t_test(test.differences, [0.0] * test.n, ratio, confidence)
    assert wide.low is not None
    assert wide.high is not None
    return -target < wide.low and wide.high < target


def _advice(test: ArmTest, needed: int | None, unit: str, target: float | None) -> str:
    """How many pairs an inconclusive test would need, in words."""
    what = "a true difference as large as this one" if target is None else f"a difference of {target:g}"
    goal = f"to detect {what} with {100 * POWER:g} % power"
    if needed is None and test.test_train_ratio:
        return f"no number of further {unit}s of these data is enough {goal}."
    if needed is None:
        return f"no affordable number of {unit}s is enough {goal}."
    if needed <= test.n:
        return f"its {plural(test.n, unit)} are enough {goal}, but the interval does not exclude one."
    return f"about {needed:,} {unit}s would be needed {goal}."
