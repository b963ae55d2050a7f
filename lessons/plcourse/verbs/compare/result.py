"""The complete result of a comparison, of which the table, the JSON file, the plot and the page are views."""

from dataclasses import dataclass, field
from typing import Any

from plcourse.stats.significance import PairedTest
from plcourse.verbs.compare.cells import ScoredCell

SCHEMA = 1


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
    """The scores of one arm: how many are used, their mean and standard deviation."""

    arm: str
    baseline: bool
    n: int
    mean: float | None
    sd: float | None


@dataclass
class Comparison:
    """Every arm against the baseline, for one choice of grid values."""

    grid: dict[str, Any] | None  # the values of `--grid_by` that these cells share, None without
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

    def as_json(self) -> dict[str, Any]:
        """The result as valid JSON: no value in it is infinite or not a number."""
        comparisons = []
        for each in self.comparisons:
            tests = [{"sd_difference" if key == "sd" else key: v for key, v in vars(t).items()} for t in each.tests]
            rows = {"arms": [vars(arm) for arm in each.arms], "cells": [cell.row() for cell in each.cells]}
            comparisons.append({**vars(each), "tests": tests, **rows})
        return {"schema": SCHEMA, **vars(self), "comparisons": comparisons}
