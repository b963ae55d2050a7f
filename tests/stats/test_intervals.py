"""Intervals stay within what their metric can be."""

import math
from pathlib import Path

import numpy as np
import pytest

from plcourse.evaluation.diagnostics import Intervals
from plcourse.evaluation.scores import Scores
from plcourse.kfold.summary import estimate
from plcourse.stats.intervals import score_range, within, within_difference


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("test/accuracy", (0, 1)),
        ("val/f1", (0, 1)),
        ("test/foreground_iou", (0, 1)),
        ("test/iou_a_dog", (0, 1)),
        ("test/boundary_f1", (0, 1)),
        ("val/loss", (0, math.inf)),
        ("val/rmse", (0, math.inf)),
        ("test/bits_per_character", (0, math.inf)),
        ("val/r2", (-math.inf, math.inf)),
        ("reward", (-math.inf, math.inf)),
    ],
)
def test_the_name_tells_the_range(metric: str, expected: tuple[float, float]) -> None:
    assert score_range(metric) == expected


def test_two_folds_far_apart_do_not_reach_beyond_the_metric() -> None:
    found = estimate("val/accuracy", [0.9, 0.99], 0.5)
    assert (found["high"], found["naive_high"]) == (1, 1)
    low, naive_low = found["low"], found["naive_low"]
    assert low is not None
    assert naive_low is not None
    assert 0 <= low < naive_low < 0.945
    assert estimate("val/loss", [0.1, 0.9], 0.5)["low"] == 0
    assert estimate("val/reward", [0.1, 0.9], 0.5)["low"] < -1
    assert estimate("val/accuracy", [90.0, 99.0], 0.5)["high"] > 100, "a percentage, whatever its name says"


def test_ends_that_are_inside_stay() -> None:
    assert within("val/accuracy", 0.2, 0.4, 0.3) == (0.2, 0.4)
    assert within("val/accuracy", None, None, 0.3) == (None, None)
    assert within_difference("test/accuracy", -1.5, 0.3) == (-1, 0.3)
    assert within_difference("test/loss", -1.5, 0.3) == (-1.5, 0.3)


@pytest.mark.parametrize("wrong", [0, 1, 30])
def test_the_intervals_of_a_test_lie_in_their_range(wrong: int, tmp_path: Path) -> None:
    labels = np.arange(30) % 3
    predicted = np.where(np.arange(30) < wrong, (labels + 1) % 3, labels)
    probability = np.eye(3)[predicted] * 0.97 + 0.01
    scores = Scores("test", ["a", "b", "c"], np.arange(30), labels, probability)
    section, _ = Intervals(n_resamples=500)(scores, tmp_path)
    for metric in ("accuracy", "f1"):
        found = section[f"test/{metric}"]
        assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
    found = section["test/accuracy"]
    assert found["low"] < found["high"], "nobody knows an accuracy exactly from 30 samples"
