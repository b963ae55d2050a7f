"""`minimal.py` computes the same folds, scores and interval as the lesson."""

import json
from pathlib import Path

import pytest

import plcourse
from plcourse.kfold.data import TableData
from plcourse.kfold.minimal import corrected_interval, cross_validate


@pytest.mark.medium
@pytest.mark.usefixtures("one_thread")
def test_the_minimal_loop_gives_the_folds_of_the_lesson(runs: Path) -> None:
    config = {
        "seed_everything": 3,
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 2,
            "num_sanity_val_steps": 0,
            "callbacks": [{"class_path": "RunCheckpoint"}],
            "fit_loop": {"class_path": "KFoldLoop", "init_args": {"random_state": 3, "monitor": "val/rmse"}},
        },
        "model": {"class_path": "plcourse.kfold.minimal.Regressor"},
        "data": {"class_path": "TableData", "init_args": {"source": "diabetes"}},
    }
    run = plcourse.run("fit", config, trust=["plcourse.kfold.minimal"])
    expected = [run.path / "folds" / str(k) / "eval" / "val.json" for k in range(5)]
    scores = cross_validate(TableData("diabetes"), n_splits=5, max_epochs=2, seed=3)
    assert scores == [json.loads(file.read_text())["metrics"]["val/rmse"] for file in expected]
    found = json.loads((run.path / "summary.json").read_text())["metrics"]["val/rmse"]
    # 354 samples are not a multiple of five: the lesson takes n_test/n_train of the real folds, 0.250002 for 1/4
    assert corrected_interval(scores) == pytest.approx((found["mean"], found["low"], found["high"]), rel=1e-5)
