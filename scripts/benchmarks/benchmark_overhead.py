"""Measures a training step of the suite, of Lightning's default Trainer and of a plain torch loop, in turns.

All three train an MLP on the digits with batches of 32 on one thread, see the same batches from the same weights, and
their losses are compared. The default Trainer has what it has by default and what users add: progress bar, CSV logger,
checkpoint, `self.log` in each step and a DataLoader over tensors. The suite has the table, TensorBoard, checkpoint and
progress bar of a run.

    python scripts/benchmarks/benchmark_overhead.py
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import plcourse
from plcourse.cli import quieten
from plcourse.ddp.data import ImageData
from plcourse.ddp.model import ImageClassifier
from plcourse.ddp.networks import MLP
from plcourse.runs.recorder import RunRecorder, TidyLogger
from plcourse.runs.run import Run
from plcourse.training.progress import RunProgress
from plcourse.training.run_checkpoint import RunCheckpoint

SEED, BATCH = 0, 32


def network() -> nn.Module:
    """Builds the same MLP every time."""
    torch.manual_seed(SEED)
    return MLP(in_features=64, hidden=(128,))


def sgd(params):
    return torch.optim.SGD(params, lr=0.05, momentum=0.9)


class Clock(pl.Callback):
    """Times the training from start to end without set-up, and keeps the losses."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.losses: list[torch.Tensor] = []

    def on_train_start(self, trainer, pl_module):
        self.seconds = time.perf_counter()

    def on_train_end(self, trainer, pl_module):
        self.seconds = time.perf_counter() - self.seconds

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        assert isinstance(outputs, dict)
        self.losses.append(outputs["loss"])


class LoggingEachStep(pl.LightningModule):
    """The classifier as most people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def training_step(self, batch, batch_idx):
        image, label = batch
        loss = functional.cross_entropy(self.network(image), label)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return sgd(self.parameters())


def batches(data: ImageData, epochs: int) -> tuple[TensorDataset, list[list[list[int]]]]:
    """Returns the training samples as tensors, and the suite's batches of every epoch as indices into them."""
    loader = data.train_dataloader()
    order = [[batch.tolist() for batch in loader.plan.batches(epoch)] for epoch in range(epochs)]
    everything = loader.data.fetch(np.arange(loader.plan.n), 0)
    return TensorDataset(everything["image"], everything["label"]), order


class Planned:
    """A batch sampler that repeats the suite's order, so that all trajectories can be compared."""

    def __init__(self, order: list[list[list[int]]]) -> None:
        self.order, self.epoch = order, -1

    def __iter__(self):
        self.epoch += 1
        return iter(self.order[self.epoch])

    def __len__(self) -> int:
        return len(self.order[0])


def plain(dataset: TensorDataset, order: list[list[list[int]]]) -> tuple[float, list[torch.Tensor]]:
    """Trains in a plain loop, the lower bound."""
    model, losses = network(), []
    optimizer = sgd(model.parameters())
    image, label = dataset.tensors
    start = time.perf_counter()
    for epoch in order:
        for indices in epoch:
            chosen = torch.tensor(indices)
            loss = functional.cross_entropy(model(image[chosen]), label[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
    return time.perf_counter() - start, losses


def default(dataset: TensorDataset, order: list[list[list[int]]], folder: str) -> tuple[float, list[torch.Tensor]]:
    """Trains with Lightning's default Trainer."""
    clock = Clock()
    trainer = pl.Trainer(
        max_epochs=len(order),
        accelerator="cpu",
        devices=1,
        default_root_dir=folder,
        logger=CSVLogger(folder),
        callbacks=[clock],
        enable_model_summary=False,
    )
    trainer.fit(LoggingEachStep(), DataLoader(dataset, batch_sampler=Planned(order)))
    return clock.seconds, clock.losses


def suite(data: ImageData, epochs: int, folder: str) -> tuple[float, list[torch.Tensor]]:
    """Trains with the suite's Trainer and everything that a run has."""
    clock, run = Clock(), Run.create("own/benchmark", folder, {})
    table = TidyLogger(run.path / "metrics.csv")
    tensorboard = TensorBoardLogger(run.path, name="tensorboard", version="")
    trainer = plcourse.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        default_root_dir=str(run.path),
        logger=[table, tensorboard],
        limit_val_batches=0,
        callbacks=[clock, RunCheckpoint(), RunRecorder(run, table), RunProgress()],
        enable_model_summary=False,
    )
    trainer.fit(ImageClassifier(network(), optimizer=sgd, lr_scheduler=None), data)
    return clock.seconds, clock.losses


def main() -> None:
    """Runs the three in turns and prints medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds, after one to warm up")
    parser.add_argument("--epochs", type=int, default=20, help="epochs per round")
    options = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    data = ImageData("digits", batch_size=BATCH)
    data.prepare_data()
    data.setup("fit")
    dataset, order = batches(data, options.epochs)
    steps = sum(map(len, order))
    seconds: dict[str, list[float]] = {"plain": [], "suite": [], "default": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds + 1):
            results = {
                "plain": plain(dataset, order),
                "suite": suite(data, options.epochs, folder),
                "default": default(dataset, order, str(Path(folder) / str(turn))),
            }
            losses = {name: torch.stack(found) for name, (_, found) in results.items()}
            for name in ("suite", "default"):
                torch.testing.assert_close(losses[name], losses["plain"], rtol=1e-5, atol=1e-6)
            if turn:
                for name, (elapsed, _) in results.items():
                    seconds[name].append(elapsed / steps * 1e6)
    print(f"{steps} steps a round, {options.rounds} rounds, batch {BATCH}, 1 thread; the same losses in all three")
    for name, values in seconds.items():
        print(f"{name:8} {statistics.median(values):7.0f} us a step ({min(values):.0f} to {max(values):.0f})")
    for name in ("suite", "plain"):
        ratios = [a / b for a, b in zip(seconds[name], seconds["default"], strict=True)]
        print(f"{name} / default: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
