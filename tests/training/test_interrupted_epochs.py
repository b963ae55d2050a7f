"""A fit that is stopped inside an epoch and resumed ends like one that was not."""

import itertools
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, EMAWeightAveraging, LambdaCallback
from torch.utils.data import DataLoader, TensorDataset

from plcourse import Run
from plcourse.ddp.data import ImageData
from plcourse.errors import Interrupted
from plcourse.runs.recorder import RunRecorder, TidyLogger
from plcourse.training.run_checkpoint import RunCheckpoint
from support import assert_equal
from trainers import BATCHES, SMALL_DATA, digits, short_trainer

pytestmark = SMALL_DATA


def stop_after(batches: int) -> pl.Callback:
    """Asks this run to end after so many batches, as the handler of SIGTERM does."""
    count = itertools.count(1)

    def stop(trainer: Any, *args: object) -> None:
        if next(count) == batches:
            trainer.safe_point.stop_signal = signal.SIGTERM

    return LambdaCallback(on_train_batch_end=stop)


def fit_run(
    run: Run, build: Callable[[], tuple[Any, ...]], resume: bool = False, stop: int = 0, **settings: Any
) -> dict[str, Any]:
    """A fit with its record, as the command line puts it together; returns all that training left behind."""
    pl.seed_everything(3, verbose=False)
    table = TidyLogger(run.path / "metrics.csv")
    callbacks = [RunCheckpoint("val/loss"), RunRecorder(run, table), *settings.pop("callbacks", [])]
    own = short_trainer(
        callbacks=[*callbacks, *([stop_after(stop)] if stop else [])],
        logger=[table],
        default_root_dir=str(run.path),
        **{"max_epochs": 3, "limit_train_batches": BATCHES, "log_every_n_steps": 1, **settings},
    )
    network, *loaders = build()
    last = run.path / "checkpoints" / "last.ckpt"
    try:
        own.fit(network, *loaders, ckpt_path=last if resume else None, weights_only=True)
        assert not stop, "the run was to be interrupted"
    except Interrupted:
        assert stop
        assert last.is_file()
    table.finalize("")
    return {
        "weights": network.state_dict(),
        "optimizer": own.optimizers[0].state_dict(),
        "schedule": [config.scheduler.state_dict() for config in own.lr_scheduler_configs],
        "step": own.global_step,
        "epoch": own.current_epoch,
        "best": own.run_checkpoint.state_dict() if own.run_checkpoint else None,
        "table": (run.path / "metrics.csv").read_text(),
        "random": torch.get_rng_state(),
    }


def assert_resumes(
    folder: Path, build: Callable[[], tuple[Any, ...]], stops: Sequence[int], settings: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """Compares fits that were stopped after so many batches and resumed with one that was not, which is returned."""
    alone = fit_run(Run.create("own/alone", folder, {}), build, **settings())
    for stop in stops:
        run = Run.create("own/stopped", folder, {})
        fit_run(run, build, stop=stop, **settings())
        assert_equal(fit_run(run, build, resume=True, **settings()), alone, f"stopped after {stop} batches")
    return alone


class Plain(pl.LightningModule):
    """A module as users write them: nothing of this suite in it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2))

    def loss(self, batch: Any) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = self.loss(batch)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self.loss(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.01)


def plain() -> tuple[Any, ...]:
    features = torch.randn(BATCHES * 8, 4, generator=torch.Generator().manual_seed(0))
    samples = TensorDataset(features, (features.sum(1) > 0).long())
    pl.seed_everything(3, verbose=False)
    return Plain(), DataLoader(samples, 8, shuffle=True), DataLoader(samples, 8)


def impatient(patience: int) -> dict[str, Any]:
    """Settings with which a run stops after ``patience + 1`` epochs, because no improvement counts."""
    return {"callbacks": [EarlyStopping("val/loss", patience=patience, min_delta=1e9)], "max_epochs": 6}


SETTINGS: dict[str, dict[str, Any]] = {
    "nothing special": {},
    "sanity check": {"num_sanity_val_steps": 2},
    "max_steps": {"max_steps": 2 * BATCHES + 3, "max_epochs": -1},
    "max_steps at an epoch's end": {"max_steps": 3 * BATCHES, "max_epochs": -1},
    "accumulation": {"accumulate_grad_batches": 2},
    "accumulation over the epoch's end": {"accumulate_grad_batches": 3},
    "validation in mid-epoch": {"val_check_interval": 0.5},
    "validation by batches": {"val_check_interval": 5, "check_val_every_n_epoch": None},
    "validation every other epoch": {"check_val_every_n_epoch": 2},
    "loaders made anew": {"reload_dataloaders_every_n_epochs": 1},
    "no validation": {"limit_val_batches": 0},
    "clipping by norm": {"gradient_clip_val": 0.1},
    "clipping by value": {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
    "bfloat16": {"precision": "bf16-mixed"},
}


def with_closure() -> tuple[Any, ...]:
    model, data = digits()
    model.optimizer = lambda params: torch.optim.LBFGS(params, 0.05, max_iter=3)
    return model, data


def with_workers() -> tuple[Any, ...]:
    return digits()[0], ImageData("digits", batch_size=32, num_workers=2)


OTHERS: dict[str, tuple[Callable[[], tuple[Any, ...]], Callable[[], list[pl.Callback]]]] = {
    "exponential averaging": (digits, lambda: [EMAWeightAveraging(decay=0.9)]),
    "a closure": (with_closure, list),
    "workers": (with_workers, list),
}


class TestInterrupted:
    @pytest.mark.medium
    @pytest.mark.parametrize("name", SETTINGS)
    def test_interrupted_and_resumed_ends_like_a_run_left_alone(self, tmp_path: Path, name: str) -> None:
        stops = (3, BATCHES, BATCHES + 1, BATCHES + 4, 2 * BATCHES + 2)
        alone = assert_resumes(tmp_path, digits, stops, lambda: SETTINGS[name])
        assert alone["table"].count("\n") > 10

    @pytest.mark.medium
    @pytest.mark.parametrize("name", OTHERS)
    def test_so_it_does_with_a_callback_an_optimizer_or_a_loader_that_has_a_state(
        self, tmp_path: Path, name: str
    ) -> None:
        build, callbacks = OTHERS[name]
        stops = (3, BATCHES, BATCHES + 4, 2 * BATCHES + 2)
        assert_resumes(tmp_path, build, stops, lambda: {"callbacks": callbacks()})

    @pytest.mark.medium
    def test_interrupted_at_every_step_it_still_ends_like_a_run_left_alone(self, tmp_path: Path) -> None:
        alone = fit_run(Run.create("own/alone", tmp_path, {}), digits, max_epochs=2)
        run = Run.create("own/stopped", tmp_path, {})
        for batch in range(2 * BATCHES - 1):
            fit_run(run, digits, resume=batch > 0, stop=1, max_epochs=2)
        assert_equal(fit_run(run, digits, resume=True, max_epochs=2), alone)

    @pytest.mark.parametrize("settings", [{}, {"max_steps": 3 * BATCHES, "max_epochs": -1}, {"limit_val_batches": 0}])
    @pytest.mark.parametrize("epochs", [1, 2])
    def test_a_users_own_module_and_loader_interrupted_between_epochs(
        self, tmp_path: Path, settings: dict[str, Any], epochs: int
    ) -> None:
        assert_resumes(tmp_path, plain, [epochs * BATCHES], lambda: settings)

    def test_a_users_own_loader_interrupted_within_an_epoch_says_what_does_not_hold(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = Run.create("own/stopped", tmp_path, {})
        fit_run(run, plain, stop=3)
        fit_run(run, plain, resume=True)
        assert "resumed after batch 3 of epoch 0, but a DataLoader always starts" in capsys.readouterr().out

    def test_a_run_that_stopped_early_trains_no_further_when_resumed(self, tmp_path: Path) -> None:
        run = Run.create("own/early", tmp_path, {})
        stopped = fit_run(run, digits, **impatient(1))
        assert stopped["step"] == 2 * BATCHES
        resumed = fit_run(run, digits, resume=True, **impatient(1))
        assert resumed["step"] == 2 * BATCHES
        assert_equal(resumed["weights"], stopped["weights"])
        assert resumed["table"] == stopped["table"]

    def test_the_patience_of_early_stopping_survives_an_interruption(self, tmp_path: Path) -> None:
        alone = assert_resumes(tmp_path, digits, [BATCHES + 3, 2 * BATCHES, 2 * BATCHES + 3], lambda: impatient(2))
        assert alone["step"] == 3 * BATCHES

    @pytest.mark.parametrize("every", [1, 3, 5])
    def test_the_table_holds_each_steps_own_loss(self, tmp_path: Path, every: int) -> None:
        losses: list[float] = []
        noting = LambdaCallback(on_train_batch_end=lambda trainer, model, step, *_: losses.append(float(step["loss"])))
        run = Run.create("own/losses", tmp_path, {})
        fit_run(run, digits, callbacks=[noting], log_every_n_steps=every)
        logged = {row["step"]: row["value"] for row in run.metrics if row["metric"] == "train/loss"}
        assert logged.keys() == set(range(every - 1, 3 * BATCHES, every))
        assert logged == {step: pytest.approx(losses[step], rel=1e-6) for step in logged}

    def test_a_table_with_gaps_is_the_same_after_an_interruption(self, tmp_path: Path) -> None:
        assert_resumes(tmp_path, digits, [BATCHES + 3], lambda: {"log_every_n_steps": 3})
