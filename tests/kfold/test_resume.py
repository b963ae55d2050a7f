"""A cross-validation that is killed and resumed ends exactly like an uninterrupted one."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

import plcourse
from forking import Forker, kill_and_resume
from kfold_configs import kfold_config
from support import TWO_PROCESSES, Command, assert_equal, assert_same_end, write_config

STEPS_PER_EPOCH = 15  # 958 training digits in batches of 64


def saving_often(**changes: Any) -> dict[str, Any]:
    config = kfold_config(**changes)
    config["trainer"]["callbacks"][0]["init_args"]["every_n_train_steps"] = 7
    return config


def failing(config: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    config["trainer"]["callbacks"].append({"class_path": "faulty.FailInFold", "init_args": arguments})
    return config


def assert_same_cross_validation(run: Path, reference: Path) -> None:
    """Every fold, the summary, the table, the out-of-fold predictions, and the weights that stand for the run."""
    for k in ("0", "1", "2"):
        assert_same_end(run / "folds" / k, reference / "folds" / k)
    for name in ("summary.json", "metrics.csv"):
        assert (run / name).read_text() == (reference / name).read_text(), name
    tables = [pq.read_table(path / "predictions" / "out_of_fold.parquet") for path in (run, reference)]
    assert tables[0].equals(tables[1])
    a, b = (torch.load(path / "checkpoints" / "best.ckpt", weights_only=True) for path in (run, reference))
    assert_equal(a["state_dict"], b["state_dict"], "best.ckpt")
    records = [json.loads((path / "run.json").read_text()) for path in (run, reference)]
    assert records[0]["status"] == records[1]["status"] == "finished"
    assert records[0]["best"] == records[1]["best"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that all others must end like, made in this process on the one thread that commands have in tests."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return plcourse.run("fit", saving_often(), runs_root=tmp_path_factory.mktemp("uninterrupted")).path
    finally:
        torch.set_num_threads(threads)


def test_killed_in_a_later_fold_and_resumed(forked: Command, tmp_path: Path, runs: Path, uninterrupted: Path) -> None:
    marker = tmp_path / "killed"
    config = failing(saving_often(), fold=2, step=STEPS_PER_EPOCH + 4, how="kill_job", once=str(marker))
    forked("fit", "-c", write_config(tmp_path / "kill.yaml", config), "--trust", "faulty", status=-9)
    assert marker.exists()
    latest = runs / "own" / "kill" / "latest"
    finished = [p for p in sorted(latest.glob("folds/*/run.json")) if json.loads(p.read_text())["status"] == "finished"]
    written = [path.stat().st_mtime_ns for path in finished]
    assert len(finished) == 2
    forked("fit", "--run", latest, "--ckpt_path", "last", "--trust", "faulty")
    assert [path.stat().st_mtime_ns for path in finished] == written, "a finished fold was run again"
    assert_same_cross_validation(latest, uninterrupted)


def test_interrupted_in_a_fold_and_resumed(forked: Command, tmp_path: Path, runs: Path, uninterrupted: Path) -> None:
    config = failing(saving_often(), fold=1, step=5, how="sigint", once=str(tmp_path / "stopped"))
    forked("fit", "-c", write_config(tmp_path / "stop.yaml", config), "--trust", "faulty", status=130)
    latest = runs / "own" / "stop" / "latest"
    statuses = [json.loads((latest / "folds" / k / "run.json").read_text())["status"] for k in "01"]
    assert statuses == ["finished", "interrupted"]
    assert json.loads((latest / "run.json").read_text())["status"] == "interrupted"
    forked("fit", "--run", latest, "--trust", "faulty")
    assert_same_cross_validation(latest, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kills", "changes"),
    [(8, {}), (6, {"trainer__fit_loop__init_args__n_jobs": 2}), (6, TWO_PROCESSES)],
    ids=["one job", "two jobs", "two processes"],
)
def test_killed_at_random_moments(tmp_path: Path, runs: Path, kills: int, changes: dict[str, Any]) -> None:
    """20 kills in all, wherever a run happens to be: between folds, while scoring, while writing."""
    with Forker(tmp_path, "plcourse.kfold.loop", "plcourse.ddp.data") as fork:
        kill_and_resume(fork, tmp_path, runs, saving_often(**changes), kills, assert_same_cross_validation)
