"""Each error is one line, and what was computed before it is kept."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import plcourse
from kfold_configs import kfold_config, own_config
from plcourse.cli import run_verb
from plcourse.errors import RunFailed, UserError
from plcourse.runs.run import Run

pytestmark = pytest.mark.medium

QUICK = {"trainer__max_epochs": 1, "data__init_args__augment": None}


def loop(**arguments: Any) -> dict[str, Any]:
    return {f"trainer__fit_loop__init_args__{name}": value for name, value in arguments.items()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_splits": 1}, "n_splits is 1; it must be 2 or more"),
        ({"n_splits": 200}, r"n_splits is 200; it must be at most \d+, the number of samples of class \d"),
        ({"folds": [3]}, "folds contains 3; the folds are numbered 0 to 2"),
        ({"n_jobs": 0}, "n_jobs is 0; it must be 1 or more"),
        ({"groups": True}, "the samples of ImageData have no groups"),
    ],
)
def test_impossible_settings_are_refused_before_training(arguments: dict[str, Any], message: str, runs: Path) -> None:
    with pytest.raises(UserError, match=message) as refused:
        plcourse.run("fit", kfold_config(**QUICK, **loop(**arguments)))
    assert "\n" not in str(refused.value)
    assert not list(runs.glob("own/*/*/folds/*/run.json"))


def test_an_unknown_monitor_is_refused_after_the_first_fold_is_saved(runs: Path) -> None:
    with pytest.raises(UserError, match=r"monitor 'val/acuracy' is never logged; did you mean 'val/accuracy'\?"):
        plcourse.run("fit", kfold_config(**QUICK, **loop(monitor="val/acuracy")))
    (fold,) = runs.glob("own/inline/2*/folds/0")
    assert Run(fold).status == "finished"


def test_data_that_cannot_be_split_are_refused(runs: Path) -> None:
    config = own_config() | {"data": {"class_path": "pytorch_lightning.demos.mnist_datamodule.MNISTDataModule"}}
    with pytest.raises(UserError, match="MNISTDataModule cannot be split into folds: it has no ids and no labels"):
        plcourse.run("fit", config, trust=["own_kfold", "pytorch_lightning.demos.mnist_datamodule"])


def test_a_run_without_folds_has_no_ensemble(runs: Path) -> None:
    config = kfold_config(**QUICK)
    config["trainer"].pop("fit_loop")
    with pytest.raises(UserError, match=r"folds has no folds; fit with KFoldLoop first"):
        plcourse.run("fit", config, then=["test"])


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The first fold of three."""
    return plcourse.run("fit", kfold_config(**QUICK, **loop(folds=[0])), runs_root=tmp_path_factory.mktemp("begun"))


class TestContinuedRun:
    @pytest.mark.parametrize(
        ("flag", "message"),
        [
            ("--trainer.fit_loop.init_args.n_splits=4", "have n_splits 3, and 4 is asked for: restore 3"),
            ("--trainer.fit_loop.init_args.random_state=1", "have random_state 0, and 1 is asked for: restore 0"),
            ("--trainer.max_epochs=2", "have max_epochs 1, and 2 is asked for: restore 1"),
            ("--seed_everything=4", "seed_everything is 3 in run .* and 4 is asked for"),
            ("--optimizer.lr=1e-6", "optimizer.init_args.lr is 0.1 in fold 0 of this run and 1e-06 is asked for"),
            ("--model.init_args.label_smoothing=0.1", "label_smoothing is 0.0 in fold 0 of this run and 0.1 is asked"),
            ("--trainer.gradient_clip_val=1", "trainer.gradient_clip_val is null in fold 0 of this run and 1"),
            ("--data.init_args.split_seed=1", "data.init_args.split_seed is 0 in run .* and 1 is asked for"),
        ],
    )
    def test_changed_settings_are_refused_and_change_nothing(self, begun: Run, flag: str, message: str) -> None:
        before = [path.read_text() for path in (begun.config_path, begun.path / "run.json")]
        with pytest.raises(UserError, match=message):
            run_verb("fit", ["--run", str(begun.path), "--ckpt_path", "last", flag])
        assert before == [path.read_text() for path in (begun.config_path, begun.path / "run.json")]

    def test_can_add_the_remaining_folds(self, begun: Run, runs: Path) -> None:
        first = (begun.path / "folds/0/run.json").stat().st_mtime_ns
        run_verb("fit", ["--run", str(begun.path), "--ckpt_path", "last", "--trainer.fit_loop.init_args.folds=null"])
        assert (begun.path / "folds/0/run.json").stat().st_mtime_ns == first
        whole = plcourse.run("fit", kfold_config(**QUICK))
        assert (begun.path / "summary.json").read_text() == (whole.path / "summary.json").read_text()

    @pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
    def test_cannot_start_from_another_kind_of_checkpoint(self, begun: Run, runs: Path) -> None:
        fold = begun.path / "folds/0/checkpoints/last.ckpt"
        with pytest.raises(UserError, match="cannot start from a checkpoint of another kind of run"):
            plcourse.run("fit", kfold_config(**QUICK), flags=["--ckpt_path", str(fold)])
        last = str(begun.path / "checkpoints/last.ckpt")
        with pytest.raises(UserError, match="must be continued in its own folder"):
            plcourse.run("fit", kfold_config(**QUICK), flags=["--ckpt_path", last])


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_fold_that_fails_is_named_and_the_others_are_kept(n_jobs: int, runs: Path) -> None:
    config = kfold_config(**QUICK, **loop(n_jobs=n_jobs))
    failing = {"class_path": "faulty.FailInFold", "init_args": {"fold": 1, "step": 4, "how": "nan"}}
    config["trainer"]["callbacks"].append(failing)
    with pytest.raises(UserError, match="fold 1: the loss is nan at step"):
        plcourse.run("fit", config, trust=["faulty"])
    (run,) = [Run(path.parent) for path in runs.glob("own/*/*/run.json") if not path.parent.is_symlink()][:1]
    assert run.status == "failed"
    statuses = {k: Run(run.path / "folds" / k).status for k in "012" if (run.path / "folds" / k).is_dir()}
    assert statuses == ({"0": "finished", "1": "failed"} | ({"2": "finished"} if n_jobs == 2 else {}))
    assert "fold" in str(run.record["error"])
    weights = torch.load(run.checkpoint("best"), weights_only=True)["state_dict"]
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_a_killed_worker_is_named_and_the_others_are_kept(runs: Path) -> None:
    config = kfold_config(**QUICK, **loop(n_jobs=2))
    failing = {"class_path": "faulty.FailInFold", "init_args": {"fold": 0, "step": 4, "how": "kill"}}
    config["trainer"]["callbacks"].append(failing)
    with pytest.raises(RunFailed, match=r"fold 0: the worker was killed by SIGKILL .*; the folds that finished are"):
        plcourse.run("fit", config, trust=["faulty"])
    (record,) = runs.glob("own/inline/2*/folds/0/run.json")
    assert json.loads(record.read_text())["status"] == "failed"
