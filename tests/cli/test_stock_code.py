"""Callbacks, loggers, plugins and schedules of Lightning in a config work as with LightningCLI, or are refused."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.plugins import AsyncCheckpointIO
from pytorch_lightning.strategies import SingleDeviceStrategy

import plcourse
from kfold_configs import kfold_config
from plcourse.cli.course_cli import CourseCLI
from plcourse.cli.request import read_request
from plcourse.errors import UserError
from plcourse.runs import allowlist
from small_runs import EPOCH, rates, small
from stock_code import Looking, OwnCheckpointIO
from support import assert_equal, write_config
from trainers import quiet_trainer

pytestmark = pytest.mark.medium
LOOKING = {"class_path": "stock_code.Looking"}


def with_callbacks(*callbacks: dict[str, Any] | str, **changes: Any) -> dict[str, Any]:
    config = small(**changes)
    config["trainer"]["callbacks"] += [{"class_path": each} if isinstance(each, str) else each for each in callbacks]
    return config


def fit(config: dict[str, Any]) -> plcourse.Run:
    return plcourse.run("fit", config, trust=["stock_code"])


class TestCheckpoints:
    @pytest.mark.parametrize(("logger", "folder"), [(False, "metrics"), (True, "tensorboard")])
    def test_a_model_checkpoint_without_a_folder_writes_into_its_own_below_the_run(
        self, logger: bool, folder: str, runs: Path
    ) -> None:
        named = {"monitor": "val/accuracy", "mode": "max", "save_last": True, "filename": "{epoch}-{val/f1:.2f}"}
        config = with_callbacks({"class_path": "ModelCheckpoint", "init_args": named})
        config["trainer"]["logger"] = logger
        run = fit(config)
        assert run.status == "finished"
        assert (run.path / "metrics.csv").is_file()
        written = {path.relative_to(run.path).parts[:2] for path in run.path.rglob("*.ckpt")}
        assert written == {
            (folder, "checkpoints"),
            ("checkpoints", "best.ckpt"),
            ("checkpoints", "last.ckpt"),
            ("checkpoints", "previous.ckpt"),
        }
        theirs, ours = (
            torch.load(run.path / each / "last.ckpt", weights_only=True)
            for each in (f"{folder}/checkpoints", "checkpoints")
        )
        assert_equal(theirs["state_dict"], ours["state_dict"])

    @pytest.mark.parametrize("kind", [AsyncCheckpointIO, OwnCheckpointIO])
    def test_another_writer_of_checkpoints_is_refused(self, kind: type[Any]) -> None:
        places = {"plugins": [kind()]}, {"plugins": kind()}, {"strategy": SingleDeviceStrategy(checkpoint_io=kind())}
        for place in places:
            with pytest.raises(UserError, match=f"contains {kind.__name__}, but .*; remove it$"):
                quiet_trainer(**place)


class TestLoggersAndBars:
    @pytest.mark.parametrize(
        ("logger", "name", "folder"),
        [
            (False, "TidyLogger", "."),
            (True, "TensorBoardLogger", "tensorboard"),
            (
                {"class_path": "CSVLogger", "init_args": {"save_dir": "logs"}},
                "CSVLogger",
                "logs/lightning_logs/version_0",
            ),
        ],
    )
    def test_user_code_finds_the_users_logger(
        self, logger: Any, name: str, folder: str, tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        config = with_callbacks(LOOKING)
        config["trainer"]["logger"] = logger
        run = fit(config)
        assert Looking.found["logger"] == name
        assert Looking.found["log_dir"].resolve() == (run.path / folder).resolve()
        assert len(run.metrics) > 2 * EPOCH, "the table is written beside every logger"

    @pytest.mark.parametrize("bar", ["TQDMProgressBar", "RichProgressBar", None])
    def test_a_progress_bar_replaces_the_suites(
        self, bar: str | None, runs: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = with_callbacks(LOOKING, *([bar] if bar else []), trainer__enable_progress_bar=True)
        config["trainer"]["enable_progress_bar"] = True
        assert fit(config).status == "finished"
        assert (Looking.found["bar"], Looking.found["bars"]) == (bar or "RunProgress", 1)
        assert ("epoch 2/2" in capsys.readouterr().out) == (bar is None)


class TestSchedules:
    def test_a_plateau_follows_its_metric(self, runs: Path) -> None:
        schedule = {"patience": 0, "factor": 0.5, "threshold": 100.0, "threshold_mode": "abs"}
        plateau = {
            "class_path": "pytorch_lightning.cli.ReduceLROnPlateau",
            "init_args": {"monitor": "val/loss", **schedule},
        }
        run = fit(small(trainer__max_epochs=4, model__init_args__lr_scheduler=plateau))
        assert rates(run) == [0.1] * 2 * EPOCH + [0.05] * EPOCH + [0.025] * EPOCH, "no loss is 100 lower"

    def test_torchs_plateau_cannot_name_a_metric(self, runs: Path) -> None:
        plateau = {"class_path": "torch.optim.lr_scheduler.ReduceLROnPlateau"}
        with pytest.raises(UserError, match=r"use pytorch_lightning\.cli\.ReduceLROnPlateau and set its monitor$"):
            fit(small(model__init_args__lr_scheduler=plateau))

    def test_a_schedule_can_be_stepped_once_per_epoch(self, runs: Path) -> None:
        halved = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1, "gamma": 0.5}}
        per_epoch = {"class_path": "PerEpoch", "init_args": {"schedule": halved}}
        run = fit(small(model__init_args__lr_scheduler=per_epoch))
        assert rates(run) == [0.1] * EPOCH + [0.05] * EPOCH
        again = plcourse.run("fit", run.config_path)
        assert again.metrics == run.metrics


class TestSettings:
    def test_a_folder_for_everything_is_said_to_have_no_effect(
        self, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = fit(small(trainer__default_root_dir=str(tmp_path / "elsewhere")))
        assert "trainer.default_root_dir has no effect" in capsys.readouterr().out
        assert run.path.is_relative_to(runs)
        assert not (tmp_path / "elsewhere").exists()

    @pytest.mark.parametrize("number", [0, -2])
    def test_less_than_one_batch_per_step_is_refused(self, number: int) -> None:
        with pytest.raises(UserError, match=f"^trainer.accumulate_grad_batches is {number}; it must be 1 or more$"):
            quiet_trainer(accumulate_grad_batches=number)

    def test_the_folds_share_the_time_of_the_run(self, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        config = kfold_config(trainer__max_time="00:00:00:03", trainer__max_epochs=1000)
        run = fit(config)
        assert "each fold trains for at most 1 s" in capsys.readouterr().out
        last = [torch.load(path, weights_only=True) for path in run.path.glob("folds/*/checkpoints/last.ckpt")]
        assert len(last) == 3
        for checkpoint in last:
            assert checkpoint["callbacks"]["Timer"]["time_elapsed"]["train"] >= 1
            assert checkpoint["epoch"] < 1000


def test_callbacks_whose_arguments_jsonargparse_cannot_write(runs: Path) -> None:
    pruning = {"pruning_fn": "l1_unstructured", "amount": 0.5, "use_lottery_ticket_hypothesis": False}
    run = fit(with_callbacks("Timer", {"class_path": "ModelPruning", "init_args": pruning}))
    assert run.status == "finished"
    weights = torch.load(run.checkpoint("last"), weights_only=True)["state_dict"]
    assert 0.4 < (weights["network.layers.1.weight"] == 0).float().mean() < 0.9
    assert plcourse.run("fit", run.config_path).metrics == run.metrics


def test_messages_of_tuners_are_shown(runs: Path) -> None:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logger = logging.getLogger("pytorch_lightning")
    logger.addHandler(handler)
    try:
        fit(with_callbacks({"class_path": "BatchSizeFinder", "init_args": {"max_trials": 2, "init_val": 64}}))
    finally:
        logger.removeHandler(handler)
    assert "Batch size 64 succeeded, trying batch size 128" in said
    assert not [line for line in said if "GPU available" in line or "Trainer.fit" in line]


def test_a_derived_command_line_is_called_around_each_verb(tmp_path: Path, runs: Path) -> None:
    calls: list[str] = []

    class Own(CourseCLI):
        def before_fit(self) -> None:
            calls.append(f"before fit, step {self.trainer.global_step}")

        def after_fit(self) -> None:
            calls.append(f"after fit, step {self.trainer.global_step}")

        def after_test(self) -> None:
            calls.append("after test")

    path = write_config(tmp_path / "own.yaml", small())
    request = read_request("fit", ["-c", str(path), "--then", "test"])
    allowlist.install(request.trusted)
    Own(request)
    assert calls == ["before fit, step 0", f"after fit, step {2 * EPOCH}", "after test"]
