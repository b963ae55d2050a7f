"""What one lesson writes, another reads: real runs of lesson 14 in the hands of lessons 15 and 16 and of `compare`.

Lessons do not import each other. They meet in files, whose form these tests hold fixed.
"""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from plcourse.core.data import ImageParts
from plcourse.core.runs import Run
from support import Command

DIGITS = ("--data.init_args.source=digits", "--data.init_args.val_size=0.1", "--data.init_args.test_size=0.2")


@pytest.fixture
def folds(forked: Command, runs: Path) -> Run:
    """Three folds of the digits, an epoch each."""
    few = ("--trainer.fit_loop.init_args.n_splits=3", "--trainer.max_epochs=1")
    forked("fit", "-c", "kfold/classifier", *few, "--then", "test")
    return Run.load("kfold/classifier", runs)


def test_the_tables_of_a_cross_validation_serve_the_other_lessons(
    forked: Command, folds: Run, runs: Path, tmp_path: Path
) -> None:
    # lesson 15: a curriculum by out-of-fold losses, on the samples that the folds share out
    scorer = "--trainer.fit_loop.init_args.scorer"
    forked(
        *("fit", "-c", "curriculum/easy_first", *DIGITS, "--model.init_args.network.init_args.in_features=64"),
        *(f"{scorer}=CrossValidatedLoss", f"{scorer}.init_args.run={folds.name}", "--trainer.max_epochs=1"),
        *("--runs_root", runs),  # below which the scorer finds it, too
        PLCOURSE_RUNS=str(tmp_path / "elsewhere"),
    )
    table = pd.read_parquet(folds.path / "predictions" / "out_of_fold.parquet").set_index("id")["loss"]
    checkpoint = torch.load(Run.load("curriculum/easy_first", runs).checkpoint("last"), weights_only=True)
    scores = checkpoint["loops"]["fit_loop"]["state_dict"]["curriculum"]["scores"]
    images = ImageParts("digits", val_size=0.1, test_size=0.2)
    train = [images.source.ids[i] for i in images.parts["train"].tolist()]
    assert len(train) == len(scores) > 1_000
    assert scores.tolist() == pytest.approx(table[train].tolist())

    # lesson 16: an ensemble of the folds, diagnosed; its scores are those of lesson 14's own ensemble, but that there
    # each fold sees the test part as it normalises images itself, and here all see it as the best fold does
    by_lesson_14, network = folds.eval("test")["metrics"], "--model.init_args.network"
    forked(
        *("test", "-c", "evaluation/ensemble", "--ckpt_path", folds.checkpoint("best"), *DIGITS, f"{network}=MLP"),
        *(f"{network}.init_args.in_features=64", f"{network}.init_args.hidden=[128]"),
        f"--model.init_args.ensemble=['{folds.path}/folds/*']",
    )
    assert "calibration" in folds.eval("test")  # written where the checkpoint lies, by the diagnosing loop
    for name, value in by_lesson_14.items():
        assert folds.eval("test")["metrics"][name] == pytest.approx(value, rel=0.01), name

    # compare: the folds are pairs, tested with the correction for their shared training sets
    wider = ("--model.init_args.network.init_args.hidden=[16]", "--trainer.fit_loop.init_args.n_splits=3")
    forked("cp", "kfold/classifier", tmp_path / "narrow.yaml")
    forked("fit", "-c", tmp_path / "narrow.yaml", *wider, "--trainer.max_epochs=1")
    narrow = Run.load("own/narrow", runs)
    forked("compare", folds.path, narrow.path, "--metric", "val/accuracy", "--json", tmp_path / "report.json")
    (comparison,) = json.loads((tmp_path / "report.json").read_text())["comparisons"]
    (test,) = comparison["tests"]
    assert (comparison["unit"], test["n"]) == ("fold", 3)
    assert test["test_train_ratio"] == pytest.approx(1 / 2, rel=0.01)
    assert test["p"] > test["p_naive"]
