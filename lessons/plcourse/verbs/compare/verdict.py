"""Turns the tests of a comparison into verdicts, each with a sentence that states it."""

from dataclasses import replace

from plcourse.stats.significance import corrected_resampled_t_test, holm, required_pairs
from plcourse.verbs.compare.result import ArmTest, ComparisonResult
from plcourse.verbs.compare.wording import interval_name, p_value_text, plural

POWER = 0.8


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
        sentence = f"{arm}: nothing can be said: there is no {unit} for which it and {baseline} both have a score."
        if n:
            sentence = f"{arm}: nothing can be said from one pair; at least 2 {unit}s are needed, better 5 or more."
        return replace(test, verdict="nothing can be said", sentence=sentence)
    if test.state == "identical":
        return replace(test, verdict="identical", sentence=f"{arm} and {baseline} are identical on all {units}.")
    if test.state == "constant":
        sentence = (
            f"{arm}: all {units} differ by exactly {difference:+.4g}, which leaves no variance to test with; "
            f"try more {unit}s."
        )
        return replace(test, verdict="no test", sentence=sentence)
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
    needed = _needed_pairs(test, target, result.alpha / family)
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


def _needed_pairs(test: ArmTest, target: float | None, alpha: float) -> int | None:
    to_detect = abs(test.difference or 0.0) if target is None else target
    if to_detect <= 0 or test.sd is None:
        return None
    return required_pairs(to_detect, test.sd, alpha, POWER, test.test_train_ratio or 0.0)


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
