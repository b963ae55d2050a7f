"""Lightning's tuners choose a setting before the run begins; the run is the run of the config that it records."""

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

import plcourse
from gan_configs import points_config
from kfold_configs import kfold_config
from plcourse.cli import run_verb
from plcourse.errors import UserError
from plcourse.runs.run import Run
from small_runs import rates, small
from support import TWO_PROCESSES

SIZES: dict[str, Any] = {"class_path": "BatchSizeFinder", "init_args": {"max_trials": 3, "init_val": 64}}
RATES: dict[str, Any] = {"class_path": "LearningRateFinder", "init_args": {"num_training_steps": 30, "min_lr": 1e-4}}
PLANNED = {
    "trainer__max_epochs": 1,
    "model__init_args__lr_scheduler": {"class_path": "WarmupCosine", "init_args": {"warmup": 0.2}},
    "model__init_args__network": {"class_path": "MLP", "init_args": {"hidden": [8], "dropout": 0.2}},
}


def tuned(config: dict[str, Any], *tuners: dict[str, Any]) -> dict[str, Any]:
    config["trainer"]["callbacks"] += tuners
    return config


def repeated(run: Run) -> Run:
    run_verb("fit", ["-c", str(run.config_path)])
    return Run.load("own/config/latest")


@pytest.mark.medium
def test_the_batch_size_is_recorded_and_planned_with(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = plcourse.run("fit", tuned(small(**PLANNED), SIZES))
    config = yaml.safe_load(run.config_path.read_text())
    assert config["data"]["init_args"]["batch_size"] == 256, "64, 128 and 256 were tried"
    assert [each["class_path"].rpartition(".")[2] for each in config["trainer"]["callbacks"]] == ["RunCheckpoint"]
    assert run.record["tuned"] == {"data.init_args.batch_size": [256, 256]}
    run = plcourse.run("fit", tuned(small(**PLANNED, data__init_args__batch_size=99), SIZES, RATES))
    assert run.record["tuned"]["data.init_args.batch_size"] == [99, 256]
    assert "tuned: data.init_args.batch_size 99 -> 256" in capsys.readouterr().out
    (rate,) = (after for key, (_, after) in run.record["tuned"].items() if key.endswith("optimizer.init_args.lr"))
    config = yaml.safe_load(run.config_path.read_text())
    assert config["model"]["init_args"]["optimizer"]["init_args"]["lr"] == rate
    assert 1e-4 < rate < 1
    assert len(rates(run)) == 5, "five batches of 256"
    assert max(rates(run)) == pytest.approx(rate)
    assert min(rates(run)) > 0
    assert repeated(run).metrics == run.metrics
    assert not list(run.path.glob(".*")), "the tuners leave nothing behind"


@pytest.mark.medium
def test_a_tuned_run_goes_on_without_being_tuned_again(runs: Path) -> None:
    run = plcourse.run("fit", tuned(small(), {**SIZES, "init_args": {"max_trials": 1, "init_val": 300}}))
    run_verb("fit", ["--run", str(run.path), "--trainer.max_epochs", "3"])
    assert [row["step"] for row in run.metrics if row["metric"] == "train/lr"] == list(range(3 * 5))


@pytest.mark.medium
def test_the_folds_of_a_cross_validation_have_one_batch_size(runs: Path) -> None:
    config = tuned(kfold_config(trainer__max_epochs=1, trainer__fit_loop__init_args__folds=[0, 1]), SIZES)
    run = plcourse.run("fit", config)
    sizes = [
        yaml.safe_load(path.read_text())["data"]["init_args"]["data"]["init_args"]["batch_size"]
        for path in run.path.glob("folds/*/config.yaml")
    ]
    assert sizes == [256, 256]


@pytest.mark.medium
@pytest.mark.parametrize(
    ("config", "tuner", "message"),
    [
        (points_config(), RATES, "LearningRateFinder cannot be used here: .*only works with single optimizer"),
        (small(), {"class_path": "BatchSizeFinder", "init_args": {"batch_arg_name": "size"}}, "Field size not found"),
        (small(**TWO_PROCESSES), SIZES, "BatchSizeFinder cannot be used here: .*not supported with distributed"),
    ],
)
def test_where_a_tuner_cannot_work_it_is_said(
    config: dict[str, Any], tuner: dict[str, Any], message: str, runs: Path
) -> None:
    with pytest.raises(UserError, match=message) as refused:
        plcourse.run("fit", tuned(config, tuner))
    assert "\n" not in str(refused.value)


def test_an_evaluation_has_nothing_to_tune(runs: Path) -> None:
    run = plcourse.run("fit", small(trainer__max_epochs=1))
    with pytest.raises(UserError, match="BatchSizeFinder chooses a training setting, but test does not train"):
        run_verb("test", ["--run", str(run.path), "--trainer.callbacks+=BatchSizeFinder"])


@pytest.mark.medium
def test_a_schedule_of_accumulation_is_planned_with(runs: Path) -> None:
    accumulating = {"class_path": "GradientAccumulationScheduler", "init_args": {"scheduling": {1: 2, 2: 5}}}
    changes = {**PLANNED, "trainer__max_epochs": 3, "trainer__log_every_n_steps": 1}
    run = plcourse.run("fit", tuned(small(**changes), accumulating))
    assert run.record["steps"] == 5 + 3 + 1, "five batches an epoch, one, two and five to a step"
    used = sorted(set(rates(run)), reverse=True)
    last = 0.1 * (1 + math.cos(math.pi * 6 / 7)) / 2  # the last of 9 steps, 2 of which warm up
    assert used[-1] == pytest.approx(last, rel=1e-4)
    config = yaml.safe_load(run.config_path.read_text())
    assert config["trainer"]["callbacks"][1]["init_args"]["scheduling"] == {"1": 2, "2": 5}
    assert repeated(run).metrics == run.metrics
