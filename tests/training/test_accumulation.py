"""An accumulated optimizer step is the mean over the samples that it has, however the accumulation is cut short.

Each fit is compared with a loop in plain torch, in double precision: the losses of all steps and the final weights.
"""

import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import GradientAccumulationScheduler, LambdaCallback
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from plcourse.data import BatchLoader, ImageDataset, Process, run_seed, train_loader
from plcourse.data.samplers import planned_batches
from plcourse.ddp.data import ImageData
from plcourse.ddp.model import ImageClassifier
from plcourse.ddp.networks import MLP
from plcourse.runs.run import Run
from plcourse.training.trainer import Trainer
from support import TWO_PROCESSES, Command, digits_config, write_config
from trainers import QUIET

RATE = 0.5
BATCH = 4
N = 50  # 13 batches, the last of 2 samples
Groups = list[list[int]]


class Digits(ImageData):
    """So many digits to train on, in batches of `BATCH`."""

    def __init__(self, drop_last: bool = False) -> None:
        super().__init__("digits", batch_size=BATCH, val_size=8, test_size=0.2)
        self.drop_last = drop_last

    def train_dataloader(self) -> BatchLoader:
        parts = self.splits
        part = ImageDataset(parts.source, parts.parts["train"][:N], parts.normalization, None, run_seed())
        return train_loader(part, self.batch_size, Process.of(self.trainer), drop_last=self.drop_last)


class Losses(pl.Callback):
    """Keeps the loss that each step logs."""

    def __init__(self) -> None:
        self.found: list[float] = []
        self.before = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.before = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *args: object, **kwargs: object) -> None:
        if trainer.global_step > self.before + len(self.found):
            self.found.append(float(trainer.callback_metrics["train/loss"]))


def stop_at(batch: int, checkpoint: Path | None = None) -> pl.Callback:
    """Stops the Trainer in the middle of a step, after writing a checkpoint there."""

    def stop(trainer: pl.Trainer, *args: object) -> None:
        if args[-1] == batch:
            if checkpoint is not None:
                trainer.save_checkpoint(checkpoint)
            trainer.should_stop = True

    return LambdaCallback(on_train_batch_end=stop)


def classifier() -> ImageClassifier:
    pl.seed_everything(7, verbose=False)
    network = MLP(64, hidden=[]).double()
    return ImageClassifier(network, optimizer=lambda params: torch.optim.SGD(params, lr=RATE), lr_scheduler=None)


def settings_of(**settings: Any) -> dict[str, Any]:
    own = {"log_every_n_steps": 1, "precision": "64-true", "num_sanity_val_steps": 0, "enable_checkpointing": False}
    return {**QUIET, **own, "max_epochs": 2, **settings}


def fit(data: pl.LightningDataModule, ckpt_path: Any = None, **settings: Any) -> tuple[list[float], Tensor, Trainer]:
    """The losses, the weights at the end and the trainer of a fit."""
    losses, module = Losses(), classifier()
    callbacks = [losses, *settings.pop("callbacks", ())]
    trainer = Trainer(**settings_of(**settings), callbacks=callbacks)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return losses.found, nn.utils.parameters_to_vector(module.parameters()).detach(), trainer


def by_hand(epochs: list[Groups], drop_last: bool = False, reshuffle: bool = True) -> tuple[list[float], Tensor]:
    """The same by a plain loop: `epochs` holds, for each epoch and step, the batches that the step is made of."""
    module = classifier()
    network = module.network
    loader = Digits(drop_last)
    loader.setup("fit")
    batches = loader.train_dataloader()
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE)
    losses = []
    for epoch, steps in enumerate(epochs):
        batches.set_epoch(epoch if reshuffle else 0)
        fetched = list(batches)
        for step in steps:
            image = torch.cat([fetched[at]["image"] for at in step]).double()
            label = torch.cat([fetched[at]["label"] for at in step])
            loss = functional.cross_entropy(network(image), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses, nn.utils.parameters_to_vector(network.parameters()).detach()


def groups(n_batches: int, accumulate: int) -> Groups:
    """The batches 0 to `n_batches` - 1, `accumulate` to a step."""
    return [list(range(at, min(at + accumulate, n_batches))) for at in range(0, n_batches, accumulate)]


def changing() -> list[pl.Callback]:
    return [GradientAccumulationScheduler({0: 1, 1: 4, 2: 3})]


CUTS: dict[str, tuple[dict[str, Any], list[Groups]]] = {
    "the end of the data": ({"accumulate_grad_batches": 4}, [groups(13, 4)] * 2),
    "fewer batches than one step": ({"accumulate_grad_batches": 100}, [groups(13, 100)] * 2),
    "limit_train_batches 2": ({"accumulate_grad_batches": 4, "limit_train_batches": 2}, [groups(2, 4)] * 2),
    "limit_train_batches 6": ({"accumulate_grad_batches": 4, "limit_train_batches": 6}, [groups(6, 4)] * 2),
    "limit_train_batches 0.4": ({"accumulate_grad_batches": 3, "limit_train_batches": 0.4}, [groups(5, 3)] * 2),
    "a limit beyond the data": ({"accumulate_grad_batches": 5, "limit_train_batches": 99}, [groups(13, 5)] * 2),
    "fast_dev_run": ({"accumulate_grad_batches": 4, "fast_dev_run": 3}, [groups(3, 4)]),
    "max_steps in the second epoch": (
        {"accumulate_grad_batches": 4, "limit_train_batches": 6, "max_steps": 3},
        [groups(6, 4), groups(4, 4)],
    ),
    "max_steps after a cut step": ({"accumulate_grad_batches": 5, "max_steps": 3}, [groups(13, 5)]),
    "a schedule": ({"callbacks": changing, "max_epochs": 3}, [groups(13, 1), groups(13, 4), groups(13, 3)]),
    "a schedule and a limit": (
        {"callbacks": changing, "limit_train_batches": 5, "max_epochs": 3},
        [groups(5, 1), groups(5, 4), groups(5, 3)],
    ),
    "validation in the middle of a step": (
        {"accumulate_grad_batches": 4, "limit_train_batches": 10, "val_check_interval": 3},
        [groups(10, 4)] * 2,
    ),
    "loaders made anew": (
        {"accumulate_grad_batches": 4, "limit_train_batches": 7, "reload_dataloaders_every_n_epochs": 1},
        [groups(7, 4)] * 2,
    ),
}


def assert_equal(found: tuple[list[float], Tensor, Trainer], expected: tuple[list[float], Tensor]) -> None:
    assert found[0] == pytest.approx(expected[0], rel=1e-12)
    assert torch.allclose(found[1], expected[1], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("cut", CUTS)
def test_a_cut_accumulation_takes_the_step_of_the_samples_it_has(cut: str) -> None:
    settings, epochs = CUTS[cut]
    settings = {key: value() if callable(value) else value for key, value in settings.items()}
    assert_equal(fit(Digits(), **settings), by_hand(epochs))


@pytest.mark.parametrize(("batches", "n"), [(1, 1), (3, 3), (0.5, 6)])
def test_overfitting_a_few_batches(batches: int | float, n: int) -> None:
    found = fit(Digits(), overfit_batches=batches, accumulate_grad_batches=4)
    assert_equal(found, by_hand([groups(n, 4)] * 2, reshuffle=False))


def test_without_the_remainder() -> None:
    found = fit(Digits(drop_last=True), accumulate_grad_batches=5)
    assert_equal(found, by_hand([groups(12, 5)] * 2, drop_last=True))


def test_resumed_in_the_middle_of_a_step(tmp_path: Path) -> None:
    """The checkpoint of a foreign callback has no gradients: the step is that of the batches left to it."""
    path = tmp_path / "middle.ckpt"
    before, _, _ = fit(Digits(), accumulate_grad_batches=4, callbacks=[stop_at(5, path)])
    after, weights, trainer = fit(Digits(), path, accumulate_grad_batches=4)
    assert (len(before), trainer.global_step) == (1, 8)
    resumed = [[0, 1, 2, 3], [6, 7], [8, 9, 10, 11], [12]]
    assert_equal((before + after, weights, trainer), by_hand([resumed, groups(13, 4)]))


def test_resumed_with_another_number(tmp_path: Path) -> None:
    path = tmp_path / "three.ckpt"
    before, _, _ = fit(Digits(), accumulate_grad_batches=3, callbacks=[stop_at(5, path)])
    after, weights, trainer = fit(Digits(), path, accumulate_grad_batches=4, limit_train_batches=9, max_epochs=1)
    assert_equal((before + after, weights, trainer), by_hand([[[0, 1, 2], [3, 4, 5], [6, 7], [8]]]))


def test_stopped_in_the_middle_of_a_step_as_by_stock_lightning() -> None:
    """Nobody knows beforehand: the gradients of the unfinished step are dropped, as Lightning does."""
    found, weights, own = fit(Digits(), accumulate_grad_batches=4, callbacks=[stop_at(5)])
    assert_equal((found, weights, own), by_hand([[[0, 1, 2, 3]]]))
    module = classifier()
    stock = pl.Trainer(**settings_of(accumulate_grad_batches=4), callbacks=[stop_at(5)])
    stock.fit(module, datamodule=Digits())
    assert stock.global_step == own.global_step == 1
    assert torch.equal(nn.utils.parameters_to_vector(module.parameters()), weights)


def test_a_loader_that_is_not_the_suites_keeps_lightnings_division() -> None:
    generator = torch.Generator().manual_seed(0)
    image, label = torch.rand(20, 64, generator=generator), torch.randint(10, (20,), generator=generator)

    def as_dict(rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        return {"image": torch.stack([row[0] for row in rows]), "label": torch.stack([row[1] for row in rows])}

    def weights(trainer: pl.Trainer) -> Tensor:
        module = classifier()
        loader = DataLoader(TensorDataset(image.double(), label), 4, collate_fn=as_dict)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The '.*_dataloader' does not have many workers")
            trainer.fit(module, loader, loader)
        return nn.utils.parameters_to_vector(module.parameters())

    settings = settings_of(accumulate_grad_batches=4, limit_train_batches=2)
    assert torch.equal(weights(Trainer(**settings)), weights(pl.Trainer(**settings)))


def test_two_ranks_with_unequal_parts_cut_by_a_limit(forked: Command, tmp_path: Path, runs: Path) -> None:
    """Their two batches, of 10 and 11 samples, are one step, though three are asked for: that of one process."""
    common = {
        "trainer__precision": "64-true",
        "trainer__max_epochs": 1,
        "trainer__log_every_n_steps": 1,
        "trainer__accumulate_grad_batches": 3,
        "model__init_args__network": {"class_path": "MLP", "init_args": {"in_features": 64}},
        "data__init_args__augment": None,
        "data__init_args__test_size": 0.2,
    }
    found = {}
    for name, changes in {
        # a remainder of one sample joins the batch before it: 6 samples on one rank, 5 on the other
        "two": {**TWO_PROCESSES, "data__init_args__batch_size": 5, "trainer__limit_train_batches": 2},
        "one": {"data__init_args__batch_size": 100},
    }.items():
        config = digits_config(**{**common, **changes, "data__init_args__val_size": 1797 - 359 - 21})
        forked("fit", "-c", write_config(tmp_path / f"{name}.yaml", config))
        run = Run.load(runs / "own" / name / "latest")
        assert run.record["data"]["n_train"] == 21
        losses = [row["value"] for row in run.metrics if row["metric"] == "train/loss"]
        found[name] = losses, torch.load(run.checkpoint("last"), weights_only=True)["state_dict"]
    assert found["two"][0] == pytest.approx(found["one"][0], rel=1e-12)
    for key, value in found["one"][1].items():
        assert torch.allclose(found["two"][1][key], value, rtol=1e-12, atol=1e-14), key


@pytest.mark.parametrize(
    ("max_epochs", "max_steps", "accumulate", "expected"),
    [(2, -1, 4, 26), (-1, 9, 4, 30), (3, 9, 4, 30), (2, 9, 4, 26), (None, 4, 1, 4), (-1, -1, 2, float("inf"))],
)
def test_the_batches_of_a_run_count_short_steps_as_they_are(
    max_epochs: int | None, max_steps: int, accumulate: int, expected: float
) -> None:
    class Holder:
        num_training_batches, accumulate_grad_batches = 13, accumulate

    assert planned_batches(Holder(), max_epochs, max_steps) == expected  # pyright: ignore[reportArgumentType]
