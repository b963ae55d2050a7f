"""Two processes cross-validate like one and score each sample once."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from kfold_configs import kfold_config
from plcourse.ddp.data import ImageData
from support import TWO_PROCESSES, Command, write_config

EXACT = {
    "trainer__precision": "64-true",  # so that rounding has nowhere to hide
    "model__init_args__network": {"class_path": "MLP", "init_args": {"hidden": [32]}},
    "trainer__max_epochs": 1,
}


def metrics(path: Path) -> dict[str, float]:
    return json.loads(path.read_text())["metrics"]


def test_two_processes_equal_one(forked: Command, tmp_path: Path, runs: Path) -> None:
    found = {}
    for name, changes in (("one", {}), ("two", TWO_PROCESSES)):
        config: dict[str, Any] = kfold_config(**EXACT, **changes)
        if changes:
            config["trainer"]["strategy"]["init_args"]["timeout"] = "0:02:00"  # nobody dies here, so waiting is no risk
        forked("fit", "-c", write_config(tmp_path / f"{name}.yaml", config), "--then", "validate,test,predict")
        found[name] = runs / "own" / name / "latest"
    one, two = found["one"], found["two"]
    for k in range(3):
        a, b = (torch.load(run / f"folds/{k}/checkpoints/last.ckpt", weights_only=True) for run in (one, two))
        for name, value in a["state_dict"].items():
            torch.testing.assert_close(b["state_dict"][name], value, rtol=1e-9, atol=1e-11)
    for file in ("eval/val.json", "eval/test.json", "folds/2/eval/test.json", "folds/2/eval/val.json"):
        assert metrics(two / file) == pytest.approx(metrics(one / file), rel=1e-6)
        report = json.loads((two / file).read_text())
        assert report["processes"] == 2
        assert report["coverage"]["twice"] == 0
        assert report["coverage"]["seen"] == report["coverage"]["expected"]
    rows = [pq.read_table(run / "predictions/out_of_fold.parquet").to_pandas().set_index("id") for run in (one, two)]
    assert sorted(rows[1].index) == sorted(ImageData("digits").ids)
    assert rows[1]["loss"].to_dict() == pytest.approx(rows[0]["loss"].to_dict(), rel=1e-6)
    assert len(list((two / "predictions").glob("part-*.parquet"))) == 2


def test_all_ranks_use_the_checkpoint_that_rank_0_found(forked: Command, tmp_path: Path, runs: Path) -> None:
    late = {"class_path": "faulty.SlowLinks", "init_args": {"seconds": 1.5}}
    config = kfold_config([late], **EXACT, **TWO_PROCESSES, trainer__fit_loop__init_args__n_splits=2)
    forked("fit", "-c", write_config(tmp_path / "late.yaml", config), "--trust", "faulty")
    for k in range(2):
        assert metrics(runs / f"own/late/latest/folds/{k}/eval/val.json")
