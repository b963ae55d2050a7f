"""Each diagnostic against a definition, another implementation, or a model whose answer is known."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest
from sklearn.metrics import f1_score, precision_recall_fscore_support, roc_auc_score

import plcourse
from plcourse.errors import UserError
from plcourse.evaluation.diagnostics import ConfidentErrors, Intervals, PerClass, RiskCoverage, WorstSlices
from plcourse.evaluation.diagnostics.calibration import (
    Calibration,
    brier,
    expected_calibration_error,
    fit_temperature,
    reliability,
    scaled,
)
from plcourse.evaluation.diagnostics.confusion import confusion_matrix
from plcourse.evaluation.diagnostics.intervals import macro_f1
from plcourse.evaluation.diagnostics.per_class import auroc
from plcourse.evaluation.diagnostics.risk_coverage import risk_coverage
from plcourse.evaluation.scores import Scores
from plcourse.stats.intervals import wilson
from support import TWO_PROCESSES, Command, digits_config, write_config

K = 4


def scores(n: int = 600, seed: int = 0, **more: Any) -> Scores:
    """Labels drawn from the predicted probabilities: a perfectly calibrated model."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(size=(n, K)) * 2
    probability = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (probability.cumsum(axis=1) > draw.random((n, 1))).argmax(axis=1)
    ids = np.array([f"s{i}" for i in range(n)])
    return Scores("test", list("abcd"), ids, labels, probability, **more)


class TestCalibration:
    def test_a_calibrated_model_has_a_small_error_and_temperature_one(self) -> None:
        found = scores(20_000)
        assert expected_calibration_error(reliability(found.probability, found.labels, 15)) < 0.015
        assert fit_temperature(found.probability, found.labels) == pytest.approx(1, abs=0.03)

    @pytest.mark.parametrize("temperature", [0.5, 2.5])
    def test_the_temperature_that_was_applied_is_found_and_undone(self, temperature: float) -> None:
        found = scores(20_000)
        distorted = scaled(found.probability, 1 / temperature)
        fitted = fit_temperature(distorted, found.labels)
        assert fitted == pytest.approx(temperature, rel=0.05)
        assert scaled(distorted, temperature) == pytest.approx(found.probability)
        assert (distorted.argmax(axis=1) == found.predicted).all()

    def test_by_hand(self) -> None:
        probability = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.5, 0.5]])
        bins = reliability(probability, np.array([0, 1, 1, 0]), 10)
        # two of confidence 0.9, one of them right; one of 0.6, right; one of 0.5, right
        assert expected_calibration_error(bins) == pytest.approx((2 * 0.4 + 0.4 + 0.5) / 4)
        assert brier(probability, np.array([0, 1, 1, 0])) == pytest.approx((0.02 + 1.62 + 0.32 + 0.5) / 4)

    def test_a_probability_of_exactly_zero_or_one_is_finite(self, tmp_path: Path) -> None:
        found = Scores("test", list("ab"), np.arange(2), np.array([0, 1]), np.array([[1.0, 0.0], [1.0, 0.0]]))
        section, _ = Calibration()(found, tmp_path)
        assert np.isfinite(section["as_predicted"]["loss"])
        assert section["as_predicted"]["ece"] == pytest.approx(0.5)


class TestPerClass:
    def test_like_scikit_learn(self, tmp_path: Path) -> None:
        found = scores()
        section, lines = PerClass()(found, tmp_path)
        expected: Any = precision_recall_fscore_support(found.labels, found.predicted)
        for k, label in enumerate(found.label_names):
            row = section[label]
            assert [row["precision"], row["recall"], row["f1"], row["n"]] == pytest.approx([e[k] for e in expected])
            assert row["auroc"] == pytest.approx(roc_auc_score(found.labels == k, found.probability[:, k]))
        assert len(lines) == K + 1

    def test_ties_count_half_and_a_missing_class_is_none(self) -> None:
        assert auroc(np.array([1.0, 1.0, 1.0]), np.array([True, False, True])) == 0.5
        assert auroc(np.array([1.0, 2.0]), np.array([True, True])) is None
        found = scores(50)
        found.labels[:] = 0
        assert PerClass()(found, Path())[0]["b"]["recall"] is None


class TestIntervals:
    def test_macro_f1_is_that_of_scikit_learn(self) -> None:
        found = scores()
        assert macro_f1(confusion_matrix(found)[None])[0] == pytest.approx(
            f1_score(found.labels, found.predicted, average="macro")
        )

    def test_drawing_the_matrix_is_drawing_the_rows(self, tmp_path: Path) -> None:
        found, draw = scores(300), np.random.default_rng(1)
        by_rows = []
        for _ in range(4000):
            rows = draw.integers(300, size=300)
            cells = found.labels[rows] * K + found.predicted[rows]
            by_rows.append(macro_f1(np.bincount(cells, minlength=K * K).reshape(1, K, K))[0])
        section, _ = Intervals()(found, tmp_path)
        ends = section["test/f1"]["low"], section["test/f1"]["high"]
        assert ends == pytest.approx(np.quantile(by_rows, [0.025, 0.975]), abs=0.006)

    def test_an_interval_holds_its_value_and_shrinks_with_the_samples(self, tmp_path: Path) -> None:
        small, large = (Intervals(n_resamples=999)(scores(n), tmp_path)[0] for n in (100, 6400))
        for metric in ("test/accuracy", "test/f1", "test/loss"):
            for section in (small, large):
                assert section[metric]["low"] < section[metric]["value"] < section[metric]["high"]
            widths = [s[metric]["high"] - s[metric]["low"] for s in (small, large)]
            assert widths[0] / widths[1] == pytest.approx(8, rel=0.35)


class TestRiskCoverage:
    def test_errors_last_are_worth_more_than_errors_first(self) -> None:
        wrong = np.array([False, False, False, True])
        best, worst = risk_coverage(np.arange(4.0), wrong), risk_coverage(-np.arange(4.0), wrong)
        assert best.tolist() == [0, 0, 0, 0.25]
        assert worst.tolist() == [1, 0.5, pytest.approx(1 / 3), 0.25]

    def test_equal_doubts_come_in_no_order(self) -> None:
        wrong = np.array([True, False, False, False])
        curves = [risk_coverage(np.zeros(4), np.roll(wrong, shift)).tolist() for shift in range(4)]
        assert all(curve == [0.25] * 4 for curve in curves)

    def test_confidence_beats_noise(self, tmp_path: Path) -> None:
        found = scores(2000)
        found.uncertainty["noise"] = np.random.default_rng(0).random(2000)
        section, _ = RiskCoverage()(found, tmp_path)
        assert section["1 - confidence"]["area"] < 0.6 * section["noise"]["area"]
        assert section["noise"]["area"] == pytest.approx(1 - found.correct.mean(), abs=0.05)
        assert section["noise"]["finds_errors"] == pytest.approx(0.5, abs=0.05)
        assert (tmp_path / "test-risk_coverage.png").stat().st_size > 10_000


class TestSlices:
    @pytest.mark.parametrize(("k", "n"), [(0, 5), (3, 7), (90, 100), (40, 40)])
    def test_wilson_is_that_of_scipy(self, k: int, n: int) -> None:
        interval = binomtest(k, n).proportion_ci(method="wilson")
        assert wilson(k, n) == pytest.approx((interval.low, interval.high), abs=1e-12)

    def test_a_planted_bad_slice_comes_first(self, tmp_path: Path) -> None:
        camera = np.array(["old" if i % 7 == 0 else "new" for i in range(600)])
        age = np.arange(600.0)
        found = scores(metadata={"camera": camera, "age": age})
        old = camera == "old"
        found.probability[old] = 0.01
        found.probability[old, (found.labels[old] + 1) % K] = 0.97
        section, lines = WorstSlices()(found, tmp_path)
        worst = section["slices"][0]
        assert (worst["column"], worst["value"], worst["accuracy"]) == ("camera", "old", 0)
        assert sum(each["column"] == "age" for each in section["slices"]) == 4
        assert "camera = old" in lines[1]
        shown = [float(line.split()[2].rstrip(":")) for line in lines[1:]]
        assert shown == sorted(shown)
        assert shown == [round(each["high"], 3) for each in section["slices"][:5]]

    def test_metadata_of_a_file_is_joined_by_id(self, tmp_path: Path) -> None:
        found = scores()
        frame = pd.DataFrame({"id": found.ids, "site": np.where(found.correct, "good", "bad")})
        frame.sample(frac=1, random_state=0).to_csv(tmp_path / "meta.csv", index=False)
        section, _ = WorstSlices(metadata=str(tmp_path / "meta.csv"))(found, tmp_path)
        assert {each["value"]: each["accuracy"] for each in section["slices"] if each["column"] == "site"} == {
            "good": 1.0,
            "bad": 0.0,
        }
        frame.assign(id="other").to_csv(tmp_path / "meta.csv", index=False)
        with pytest.raises(UserError, match="no id matches a sample; the ids of the samples look like"):
            WorstSlices(metadata=str(tmp_path / "meta.csv"))(found, tmp_path)


def test_errors_are_listed_surest_first(tmp_path: Path) -> None:
    found = scores(uncertainty={"epistemic": np.arange(600.0)})
    section, _ = ConfidentErrors()(found, tmp_path)
    table = pd.read_csv(tmp_path / "test-errors.csv")
    assert len(table) == section["n"] == (~found.correct).sum()
    assert table.confidence.is_monotonic_decreasing
    assert (table.true != table.predicted).all()
    assert not (tmp_path / "test-errors.png").exists()


def diagnosed(**changes: Any) -> dict[str, Any]:
    return digits_config(
        trainer__precision="64-true",
        trainer__max_epochs=1,
        trainer__test_loop={"class_path": "DiagnosticTestLoop"},
        **changes,
    )


def test_two_processes_find_what_one_finds_with_the_model_of_another_lesson(
    forked: Command, tmp_path: Path, runs: Path
) -> None:
    forked("fit", "-c", write_config(tmp_path / "one.yaml", diagnosed()), "--then", "test")
    run = runs / "own" / "one" / "latest"
    first = json.loads((run / "eval" / "test.json").read_text())
    errors = pd.read_csv(run / "plots" / "test-errors.csv")
    processes = {key: value for key, value in TWO_PROCESSES.items() if key.startswith("trainer")}
    two = write_config(tmp_path / "two.yaml", diagnosed(**processes))
    forked("test", "-c", two, "--ckpt_path", run / "checkpoints" / "best.ckpt")
    second = json.loads((run / "eval" / "test.json").read_text())
    assert second["processes"] == 2
    sections = {"intervals", "per_class", "confusion", "calibration", "risk_coverage", "slices", "errors"}
    assert sections <= first.keys()
    for section in sections:
        for where, value in flat(first[section], section).items():
            expected = pytest.approx(value, rel=1e-9) if isinstance(value, float) else value
            assert flat(second[section], section)[where] == expected, where
    pd.testing.assert_frame_equal(pd.read_csv(run / "plots" / "test-errors.csv"), errors)
    assert first["intervals"]["test/accuracy"]["value"] == pytest.approx(first["metrics"]["test/accuracy"])
    assert first["intervals"]["test/f1"]["value"] == pytest.approx(first["metrics"]["test/f1"])
    assert first["intervals"]["test/loss"]["value"] == pytest.approx(first["metrics"]["test/loss"])
    pictures = {"confusion", "errors", "reliability", "risk_coverage"}
    assert {path.stem for path in (run / "plots").glob("*.png")} == {f"test-{name}" for name in pictures}


def flat(value: Any, where: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for name, inner in value.items() for k, v in flat(inner, f"{where}.{name}").items()}
    if isinstance(value, list):
        return {k: v for i, inner in enumerate(value) for k, v in flat(inner, f"{where}.{i}").items()}
    return {where: value}


@pytest.mark.medium
def test_a_config_chooses_the_diagnostics(runs: Path) -> None:
    loop = {"diagnostics": [{"class_path": "PerClass"}, {"class_path": "Calibration", "init_args": {"n_bins": 5}}]}
    changes = {"trainer__test_loop": {"class_path": "DiagnosticTestLoop", "init_args": {**loop, "calibrate": False}}}
    run = plcourse.run("fit", digits_config(trainer__max_epochs=1, **changes), then=["test"], runs_root=runs)
    report = run.eval("test")
    assert "confusion" not in report
    assert len(report["calibration"]["as_predicted"]["bins"]) == 5
    assert report["calibration"]["temperature"] is None
