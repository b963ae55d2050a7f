"""A fit that is stopped inside an epoch and resumed ends like one that was not."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from torch.utils.data import DataLoader, TensorDataset

from plcourse import Run, Trainer
from plcourse.ddp.data import ImageData
from plcourse.ddp.model import ImageClassifier
from plcourse.ddp.networks import MLP
from plcourse.errors import Interrupted
from plcourse.runs.recorder import RunRecorder, TidyLogger
from plcourse.training.run_checkpoint import RunCheckpoint
from trainers import quiet_trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
]


BATCHES = 8  # training batches per epoch


@pytest.fixture(autouse=True)
def signal_handlers() -> Iterator[None]:
    """An interrupted trainer leaves its handlers for a second signal; here the process goes on."""
    handlers = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def trainer(**settings: Any) -> Trainer:
    small = {"max_epochs": 1, "limit_train_batches": 3, "limit_val_batches": 2, "num_sanity_val_steps": 0}
    return quiet_trainer(**{**small, **settings})


def model() -> ImageClassifier:
    pl.seed_everything(3, verbose=False)
    return ImageClassifier(MLP(64, dropout=0.3))


def data() -> ImageData:
    return ImageData("digits", batch_size=32)


class StopAfter(pl.Callback):
    """Asks this run to end after so many batches, as the handler of SIGTERM does."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_batch_end(self, trainer: Any, *arguments: Any, **kwargs: Any) -> None:
        self.batches -= 1
        if self.batches == 0:
            trainer.safe_point.stop_signal = signal.SIGTERM


def fit_run(
    run: Run, build: Callable[[], tuple[Any, ...]], resume: bool = False, stop: int = 0, **settings: Any
) -> dict[str, Any]:
    """A fit with its record, as the command line puts it together; returns all that training left behind."""
    pl.seed_everything(3, verbose=False)
    table = TidyLogger(run.path / "metrics.csv")
    callbacks = [RunCheckpoint("val/loss"), RunRecorder(run, table), *settings.pop("callbacks", [])]
    own = trainer(
        callbacks=[*callbacks, *([StopAfter(stop)] if stop else [])],
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


def assert_equal(a: Any, b: Any, where: str = "run") -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_equal(x, y, f"{where}.{i}")
    else:
        assert a == b, where


def digits() -> tuple[Any, ...]:
    return model(), data()


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
}


class TestInterrupted:
    @pytest.mark.medium
    @pytest.mark.parametrize("name", SETTINGS)
    def test_interrupted_and_resumed_ends_like_a_run_left_alone(self, tmp_path: Path, name: str) -> None:
        settings = SETTINGS[name]
        alone = fit_run(Run.create("own/alone", tmp_path, {}), digits, **settings)
        assert alone["table"].count("\n") > 10
        for stop in (3, BATCHES, BATCHES + 1, BATCHES + 4, 2 * BATCHES + 2):
            run = Run.create("own/stopped", tmp_path, {})
            fit_run(run, digits, stop=stop, **settings)
            resumed = fit_run(run, digits, resume=True, **settings)
            assert_equal(resumed, alone, f"stopped after {stop} batches")

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
        alone = fit_run(Run.create("own/alone", tmp_path, {}), plain, **settings)
        run = Run.create("own/stopped", tmp_path, {})
        fit_run(run, plain, stop=epochs * BATCHES, **settings)
        assert_equal(fit_run(run, plain, resume=True, **settings), alone)

    def test_a_run_that_stopped_early_trains_no_further_when_resumed(self, tmp_path: Path) -> None:
        run = Run.create("own/early", tmp_path, {})

        def patient() -> dict[str, Any]:
            # no improvement counts: it stops after the second epoch
            return {"callbacks": [EarlyStopping("val/loss", patience=1, min_delta=1e9)], "max_epochs": 5}

        stopped = fit_run(run, digits, **patient())
        assert stopped["step"] == 2 * BATCHES
        resumed = fit_run(run, digits, resume=True, **patient())
        assert resumed["step"] == 2 * BATCHES
        assert_equal(resumed["weights"], stopped["weights"])
        assert resumed["table"] == stopped["table"]

    def test_the_patience_of_early_stopping_survives_an_interruption(self, tmp_path: Path) -> None:
        def patient() -> dict[str, Any]:
            return {"callbacks": [EarlyStopping("val/loss", patience=2, min_delta=1e9)], "max_epochs": 6}

        alone = fit_run(Run.create("own/alone", tmp_path, {}), digits, **patient())
        assert alone["step"] == 3 * BATCHES
        for stop in (BATCHES + 3, 2 * BATCHES, 2 * BATCHES + 3):
            run = Run.create("own/stopped", tmp_path, {})
            settings = patient()
            fit_run(run, digits, stop=stop, **settings)
            assert_equal(fit_run(run, digits, resume=True, **patient()), alone, f"stopped after {stop} batches")

    @pytest.mark.parametrize("every", [1, 3, 5])
    def test_the_table_holds_each_steps_own_loss(self, tmp_path: Path, every: int) -> None:
        losses: list[float] = []

        class Losses(pl.Callback):
            def on_train_batch_end(
                self, trainer: Any, pl_module: Any, outputs: Any, *arguments: Any, **kwargs: Any
            ) -> None:
                losses.append(float(outputs["loss"]))

        run = Run.create("own/losses", tmp_path, {})
        fit_run(run, digits, callbacks=[Losses()], log_every_n_steps=every)
        logged = {row["step"]: row["value"] for row in run.metrics if row["metric"] == "train/loss"}
        assert logged.keys() == set(range(every - 1, 3 * BATCHES, every))
        assert logged == {step: pytest.approx(losses[step], rel=1e-6) for step in logged}

    def test_a_table_with_gaps_is_the_same_after_an_interruption(self, tmp_path: Path) -> None:
        alone = fit_run(Run.create("own/alone", tmp_path, {}), digits, log_every_n_steps=3)
        run = Run.create("own/stopped", tmp_path, {})
        fit_run(run, digits, stop=BATCHES + 3, log_every_n_steps=3)
        assert_equal(fit_run(run, digits, resume=True, log_every_n_steps=3), alone)
