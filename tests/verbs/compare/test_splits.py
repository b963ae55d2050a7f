"""Comparisons over folds and repeated splits, with the corrected test."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from compared_runs import made, only_test
from plcourse.runs.run import Run


class TestSplits:
    def repeated(self, **options) -> list[Path]:
        rng = np.random.default_rng(0)
        shares = {"val_size": 0.1, "test_size": 0.2, **options}
        return [
            made(arm, float(0.97 + shift + rng.normal() / 300), 0, split_seed=split, **shares).path
            for arm, shift in (("a/b", 0), ("a/c", 0.006))
            for split in range(6)
        ]

    def test_repeated_splits_get_the_corrected_test(self, reported, said):
        inputs = self.repeated()
        report = reported(*inputs, "--metric", "test/accuracy")
        [comparison], test = report["comparisons"], only_test(report)
        assert comparison["unit"] == "split"
        assert comparison["test"] == "corrected resampled t (Nadeau and Bengio 2003)"
        assert test["test_train_ratio"] == pytest.approx(0.2 / 0.7)
        assert test["variance_factor"] == pytest.approx(1 / 6 + 0.2 / 0.7)
        naive: Any = stats.ttest_1samp(test["differences"], 0)
        t = naive.statistic / np.sqrt(6 * test["variance_factor"])
        assert test["p"] == pytest.approx(2 * stats.t.sf(abs(t), 5))
        assert test["p_naive"] == pytest.approx(naive.pvalue)
        out = said(*inputs, "--metric", "test/accuracy")
        assert "p (naive)" in out
        assert "n_test/n_train = 0.2857, from val_size and test_size" in out
        assert re.search(r"cell +seed +split_seed +steps +value +run", out)

    def test_sizes_come_from_the_flags_or_the_record(self, reported, refused):
        inputs = self.repeated(val_size=250, test_size=1000)
        assert "give --n_train N and --n_test N" in refused(*inputs, "--metric", "test/accuracy")
        flags = ("--n_train", 3000, "--n_test", 1000)
        asked = reported(*inputs, "--metric", "test/accuracy", *flags)
        assert only_test(asked)["test_train_ratio"] == pytest.approx(1 / 3)
        for path in inputs:
            Run(path).update(data={"n_train": 4000, "n_val": 250})
        assert only_test(reported(*inputs, "--metric", "test/accuracy"))["test_train_ratio"] == 0.25

    def test_no_number_of_splits_is_enough(self, said):
        out = said(*self.repeated(), "--metric", "test/accuracy", "--difference", 0.0005)
        assert "no number of further splits of these data is enough to detect a difference of 0.0005" in out

    def test_seeds_of_a_split_are_averaged(self, reported):
        inputs = [
            made(arm, value + seed / 1000 + split / 500, seed, split_seed=split, val_size=0.1, test_size=0.2).path
            for arm, value in (("a/b", 0.9), ("a/c", 0.95))
            for split in range(3)
            for seed in range(2)
        ]
        report = reported(*inputs, "--metric", "test/accuracy")
        test = only_test(report)
        assert (test["n"], test["pairs"]) == (3, 6)
        assert "averaged first" in " ".join(report["notes"])

    def folded(self, arm: str, shift: float, stage: str = "val") -> Path:
        run = made(arm, None)
        for k in range(5):
            folder = run.path / f"folds/{k}"
            (folder / "eval").mkdir(parents=True)
            metrics = {f"{stage}/accuracy": 0.9 + shift * (1 + k / 10) + k / 100}
            (folder / f"eval/{stage}.json").write_text(json.dumps({"metrics": metrics}))
            (folder / "metrics.csv").write_text("step,epoch,metric,value\n49,0,val/loss,0.5\n")
        return run.path

    def test_the_folds_of_a_run(self, reported):
        report = reported(self.folded("kfold/a", 0), self.folded("kfold/b", 0.02), "--metric", "val/accuracy")
        [comparison], test = report["comparisons"], only_test(report)
        assert (comparison["unit"], test["n"], test["test_train_ratio"]) == ("fold", 5, 0.25)
        cells = comparison["cells"]
        assert [cell["fold"] for cell in cells] == [0, 1, 2, 3, 4] * 2
        assert cells[1]["run"].endswith("folds/1")
        assert {cell["steps"] for cell in cells} == {50}

    def test_folds_scored_on_one_test_part_need_the_sizes(self, refused):
        inputs = [self.folded(arm, shift, "test") for arm, shift in (("kfold/a", 0), ("kfold/b", 0.02))]
        assert "--n_train N" in refused(*inputs, "--metric", "test/accuracy")
