"""The fast path equals Lightning's step bit for bit, and leaves out no hook that does something."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, LambdaCallback
from pytorch_lightning.trainer.connectors.logger_connector.result import _ResultMetric
from torch.nn import functional

from plcourse.ddp.data import ImageData
from plcourse.ddp.model import ImageClassifier
from plcourse.ddp.networks import MLP
from plcourse.runs.recorder import RunRecorder, TidyLogger
from plcourse.runs.run import Run
from plcourse.training.loops import TestLoop
from plcourse.training.run_checkpoint import RunCheckpoint
from plcourse.training.trainer import NoProfiler
from support import assert_equal
from trainers import quiet_trainer

EPOCHS = 2
Module = pl.LightningModule


class Logging(pl.Callback):
    """Logs where callbacks may, each step."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Module, *args: object, **kwargs: object) -> None:
        pl_module.log("early", float(trainer.global_step))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Module, *args: Any, **kwargs: object) -> None:
        pl_module.log("late", args[0].get("loss", torch.zeros(())) * 2)

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: Module, *args: Any, **kwargs: object) -> None:
        pl_module.log("rows", float(len(args[1]["id"])), batch_size=1)


class Looking(pl.Callback):
    """Logs once an epoch under a name that validation uses too; each step, what a callback finds there."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Module, *args: Any, **kwargs: object) -> None:
        if args[2] == 1:
            pl_module.log("val/f1", 0.5)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Module, *args: object, **kwargs: object) -> None:
        pl_module.log("found", dict(trainer._logger_connector._callback_metrics).get("val/f1", -1.0))


class Scheduled(ImageClassifier):
    """One schedule by epoch, or one that waits for a plateau."""

    def __init__(self, *args: Any, plateau: bool, **kwargs: Any) -> None:
        super().__init__(*args, lr_scheduler=None, **kwargs)
        self.plateau = plateau

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        if self.plateau:
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val/loss"}}
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)]


class Classifier(ImageClassifier):
    """Skips a step now and then, and logs per epoch as well."""

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Any:
        if batch_idx % 5 == 4:
            return None
        loss = super().training_step(batch, batch_idx)
        self.log("mean", loss.detach(), on_step=True, on_epoch=True, batch_size=len(batch["id"]))
        return {"loss": loss, "more": batch_idx}


def trained(folder: Path, model: pl.LightningModule, callbacks: list[Any], **settings: Any) -> tuple[Path, Any]:
    run = Run.create("own/fast_path", folder, {})
    table = TidyLogger(run.path / "metrics.csv")
    trainer = quiet_trainer(
        max_epochs=EPOCHS,
        log_every_n_steps=3,
        logger=[table],
        callbacks=[RunCheckpoint(), RunRecorder(run, table), *callbacks],
        default_root_dir=str(run.path),
        **settings,
    )
    data = ImageData("digits", batch_size=64)
    trainer.fit(model, data)
    scores = trainer.test(model, data, verbose=False)
    checkpoint = torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)
    del checkpoint["plcourse"]  # when it was made, and in how many seconds
    return run.path, (checkpoint, scores)


def made(kind: type[ImageClassifier], **arguments: Any) -> ImageClassifier:
    pl.seed_everything(3, verbose=False)
    return kind(MLP(hidden=(32,), dropout=0.2), **arguments)


def lbfgs(params: Any) -> torch.optim.Optimizer:
    return torch.optim.LBFGS(params, lr=0.1, max_iter=3)


FITS: dict[str, tuple[type[ImageClassifier], dict[str, Any], list[Callable[[], pl.Callback]], dict[str, Any]]] = {
    "plain": (ImageClassifier, {}, [], {}),
    "logging": (Classifier, {}, [Logging], {"val_check_interval": 7}),
    "averaging": (ImageClassifier, {}, [partial(EMAWeightAveraging, decay=0.9)], {}),
    "accumulating": (ImageClassifier, {}, [], {"accumulate_grad_batches": 3}),
    "clipping": (ImageClassifier, {}, [], {"gradient_clip_val": 0.1}),
    "closure called again": (ImageClassifier, {"optimizer": lbfgs}, [], {}),
    "plateau": (Scheduled, {"plateau": True}, [Looking], {"val_check_interval": 7}),
    "schedule by epoch": (Scheduled, {"plateau": False}, [Looking], {"check_val_every_n_epoch": 2}),
}


@pytest.mark.medium
@pytest.mark.parametrize("name", FITS)
@pytest.mark.filterwarnings("ignore:.training_step. returned .None.")
def test_it_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The whole checkpoint, counters included, every logged number, and the test's scores."""
    kind, arguments, callbacks, settings = FITS[name]
    ways = []
    for switch in ("0", "1"):
        monkeypatch.setenv("PLCOURSE_FAST_PATH", switch)
        ways.append(trained(tmp_path, made(kind, **arguments), [new() for new in callbacks], **settings))
    (stock, found), (fast, found_fast) = ways
    assert_equal(found_fast, found, "checkpoint and scores")
    assert (fast / "metrics.csv").read_text() == (stock / "metrics.csv").read_text()


@pytest.mark.parametrize("switch", ["1", "0"])
def test_it_is_taken_unless_switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str) -> None:
    """Otherwise the test above would compare a step with itself."""
    monkeypatch.setenv("PLCOURSE_FAST_PATH", switch)
    found: set[tuple[bool, ...]] = set()

    def look(trainer: Any, *args: object) -> None:
        loop = trainer.fit_loop.epoch_loop
        profiler = type(trainer.profiler) is NoProfiler
        metrics = all(type(metric) is not _ResultMetric for metric in loop._results.values())
        found.add((loop._path is not None, loop.automatic_optimization.is_direct, profiler, metrics))

    trained(tmp_path, made(ImageClassifier), [Logging(), LambdaCallback(on_train_batch_end=look)])
    assert found == {(switch == "1",) * 4}


HOOKS = (
    *("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step"),
    *("on_train_batch_start", "on_train_batch_end"),
)
OF_THE_MODULE = (
    *("optimizer_step", "optimizer_zero_grad", "backward", "configure_gradient_clipping"),
    *("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"),
)


def counting(base: type, names: tuple[str, ...], calls: set[str]) -> type:
    """A class whose hooks note that they were called, then do what the base's do."""

    def hook(name: str) -> Any:
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            calls.add(name)
            return getattr(super(derived, self), name)(*args, **kwargs)

        return method

    derived: type = type(f"Counting{base.__name__}", (base,), {name: hook(name) for name in names})
    return derived


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_of_a_callback_is_called(tmp_path: Path, name: str) -> None:
    calls: set[str] = set()
    trained(tmp_path, made(ImageClassifier), [counting(pl.Callback, (name,), calls)()])
    assert calls == {name}


@pytest.mark.parametrize("name", [*HOOKS, *OF_THE_MODULE])
@pytest.mark.filterwarnings("ignore:You have overridden")
def test_a_hook_of_the_module_is_called(tmp_path: Path, name: str) -> None:
    calls: set[str] = set()
    trained(tmp_path, made(counting(ImageClassifier, (name,), calls)), [])
    assert calls == {name}


def test_callbacks_that_come_late_are_called(tmp_path: Path) -> None:
    """A loop may add them when it starts, and a callback in mid-epoch."""

    calls: list[int] = []

    def add(trainer: Any) -> None:
        trainer.callbacks.append(
            LambdaCallback(
                on_train_batch_end=lambda trainer, *_: calls.append(trainer.global_step),
                on_test_batch_end=lambda *_: calls.append(-1),
            )
        )

    class AddingTestLoop(TestLoop):
        def on_run_start(self) -> None:
            super().on_run_start()
            add(self.trainer)

    adding = LambdaCallback(on_train_batch_end=lambda trainer, *_: add(trainer) if trainer.global_step == 5 else None)
    trained(tmp_path, made(ImageClassifier), [adding], test_loop=AddingTestLoop)
    steps = [step for step in calls if step > 0]
    assert steps in (list(range(5, 41)), list(range(6, 41)))  # in that very step or from the next one on
    assert calls.count(-1) == 2 * 6  # two callbacks, 359 samples in batches of 64


def test_a_hook_of_the_data_module_is_called(tmp_path: Path) -> None:
    class Halved(ImageData):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            seen.append(len(batch["id"]))
            return {**batch, "image": batch["image"] / 2}

    seen: list[int] = []
    trainer = quiet_trainer(max_epochs=1, default_root_dir=tmp_path)
    trainer.fit(made(ImageClassifier), Halved("digits", batch_size=64))
    assert sum(seen) > 1400  # training and validation


def test_a_step_of_its_own_sees_the_device(tmp_path: Path) -> None:
    """The strategy still moves a batch that is no `Batch` of the suite."""

    class Pairs(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 2)

        def training_step(self, batch: Any) -> torch.Tensor:
            image, label = batch
            return functional.cross_entropy(self.layer(image), label)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    torch.manual_seed(0)
    rows = torch.utils.data.TensorDataset(torch.randn(32, 4), torch.randint(2, (32,)))
    trainer = quiet_trainer(max_epochs=3, default_root_dir=tmp_path)
    module = Pairs()
    before = module.layer.weight.detach().clone()
    trainer.fit(module, torch.utils.data.DataLoader(rows, batch_size=8))
    assert trainer.global_step == 12
    assert not torch.equal(before, module.layer.weight)
