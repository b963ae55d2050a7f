"""The complete result of a comparison, of which the table, the JSON file, the plot and the page are views."""

from dataclasses import dataclass, field
from typing import Any

from plcourse.stats.significance import PairedTest
from plcourse.verbs.compare.cells import ScoredCell

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class ArmTest(PairedTest):
    """What the pairs say about an arm and the baseline.

    Attributes:
        arm: the arm's name.
        baseline: the baseline's name.
        pairs: pairs of cells; `n` is smaller where the seeds of a fold or split were averaged.
        baseline_mean: mean score of the baseline's cells in these pairs.
        arm_mean: mean score of the arm's.
        differences: [n] arm minus baseline.
        test_train_ratio: n_test / n_train of the corrected test; None for seeds.
        p_naive: the p-value without the correction; None for seeds.
        p_holm: the p-value adjusted for all tests of the comparison.
        needed: pairs that an inconclusive test would need, None if unknown or not needed.
        verdict: the result in a word or two.
        sentence: the result in a sentence.
    """

    arm: str
    baseline: str
    pairs: int
    baseline_mean: float | None
    arm_mean: float | None
    differences: list[float]
    test_train_ratio: float | None
    p_naive: float | None
    p_holm: float | None = None
    needed: int | None = None
    verdict: str = ""
    sentence: str = ""


@dataclass
class ArmSummary:
    """The scores of one arm: how many are used, their mean and standard deviation."""

    arm: str
    baseline: bool
    n: int
    mean: float | None
    sd: float | None


@dataclass
class Comparison:
    """Every arm against the baseline, for one choice of grid values.

    Attributes:
        grid: the values of `--grid_by` that these cells share, None without.
        baseline: the baseline's name.
        unit: what varies between the pairs: `seed`, `fold`, `split` or `fold of a split`.
        test: the test's name.
        test_train_ratio: of the corrected test, None for seeds.
        arms: the baseline first.
        tests: one for every other arm.
        cells: all of them, in the order of the arms.
    """

    grid: dict[str, Any] | None
    baseline: str
    unit: str
    test: str
    test_train_ratio: float | None
    arms: list[ArmSummary]
    tests: list[ArmTest]
    cells: list[ScoredCell]


@dataclass
class ComparisonResult:
    """All comparisons of a metric.

    Attributes:
        metric: its name.
        mode: `max` or `min`.
        source: where the scores are from, a key of `scores.SOURCES`.
        alpha: level of the tests.
        power: power that the needed pairs would give.
        difference_to_detect: the difference that matters to the user, if given.
        forced: what `--force` overruled, one line each.
        notes: what a reader should know.
        comparisons: one, or one per value of `--grid_by`.
    """

    metric: str
    mode: str
    source: str
    alpha: float
    power: float
    difference_to_detect: float | None
    forced: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)

    @property
    def tests(self) -> list[ArmTest]:
        """The tests of all comparisons."""
        return [test for comparison in self.comparisons for test in comparison.tests]

    @property
    def family_size(self) -> int:
        """The number of tests with a p-value, which Holm's adjustment covers together."""
        return sum(test.p is not None for test in self.tests)

    def as_json(self) -> dict[str, Any]:
        """The result as valid JSON: no value in it is infinite or not a number."""
        comparisons = []
        for each in self.comparisons:
            tests = [{"sd_difference" if key == "sd" else key: v for key, v in vars(t).items()} for t in each.tests]
            rows = {"arms": [vars(arm) for arm in each.arms], "cells": [cell.row() for cell in each.cells]}
            comparisons.append({**vars(each), "tests": tests, **rows})
        return {"schema": SCHEMA, **vars(self), "comparisons": comparisons}
