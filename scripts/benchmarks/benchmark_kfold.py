"""Measures cross-validation: 10 folds x 15 epochs on the digits in plain torch loops and by KFoldLoop, in turns.

Two plain loops use the same initial weights, batches, optimizer and schedule in each fold. The plain one does the same
work as KFoldLoop without Lightning: batches from the same loader; loss, accuracy and F1 by the same metrics after each
epoch; a row of the table for each of them and for each logged step; a checkpoint per fold; then the predictions of the
held-out samples in a Parquet file and the scores in a JSON file. The bare one indexes prepared tensors, computes only
the accuracy and writes nothing: the lower bound. KFoldLoop also keeps a run per fold, survives a kill and draws a plot.
The mean accuracies are compared. Each process has one intra-op thread. The time includes everything after the imports
and the reading of the data.

    python scripts/benchmarks/benchmark_kfold.py
"""

import argparse
import contextlib
import copy
import csv
import io
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional

import plcourse
from plcourse.cli import quieten
from plcourse.data import BatchLoader
from plcourse.ddp.data import ImageData
from plcourse.ddp.model import ImageClassifier
from plcourse.ddp.networks import MLP, ResNet
from plcourse.kfold.folds import plan_folds
from plcourse.kfold.loop import KFoldLoop
from plcourse.runs.record import read_record
from plcourse.runs.recorder import RunRecorder, TidyLogger
from plcourse.runs.run import Run
from plcourse.training.metrics import ClassificationScores
from plcourse.training.run_checkpoint import RunCheckpoint
from plcourse.training.schedules import WarmupCosine

SEED = 0
LOG_EVERY = 50  # steps; Lightning's default
NETWORKS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "MLP, batch 64": (64, lambda: MLP(hidden=(128,))),
    "MLP, batch 256": (256, lambda: MLP(hidden=(512, 512))),
    "ResNet, batch 64": (64, lambda: ResNet(widths=(16, 32))),
}


def sgd(params) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True)


def classifier(network: Callable[[], nn.Module]) -> ImageClassifier:
    """Builds the network with the same weights every time."""
    pl.seed_everything(SEED, verbose=False)
    return ImageClassifier(network(), optimizer=sgd, lr_scheduler=WarmupCosine)


def plain(network: Callable[[], nn.Module], data: ImageData, folds: int, epochs: int, root: str) -> float:
    """Does the same work in plain loops; returns the mean accuracy."""
    pattern = classifier(network).network
    found = []
    for fold in plan_folds(data, folds).folds:
        folder = Path(tempfile.mkdtemp(dir=root))
        part = data.with_split(fold.train_ids, fold.val_ids)
        loader, held_out = part.train_dataloader(), part.val_dataloader()
        model = copy.deepcopy(pattern)
        optimizer = sgd(model.parameters())
        schedule = WarmupCosine(optimizer)
        schedule.start(epochs * len(loader))
        scores = ClassificationScores(10, "val")
        step = 0
        with (folder / "metrics.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            for epoch in range(epochs):
                model.train()
                loader.set_epoch(epoch)
                for batch in loader:
                    loss = functional.cross_entropy(model(batch["image"]), batch["label"])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    step += 1
                    if not math.isfinite(value := loss.item()):
                        raise ArithmeticError(step)
                    if step % LOG_EVERY == 0:
                        rows.writerow((step, epoch, "train/loss", value))
                        rows.writerow((step, epoch, "train/lr", schedule.get_last_lr()[0]))
                values, _ = score(model, held_out, scores)
                rows.writerows((step, epoch, name, value) for name, value in values.items())
        states = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
        torch.save({**states, "step": step}, folder / "last.ckpt")
        values, table = score(model, held_out, scores)
        pq.write_table(pa.table(table), folder / "out_of_fold.parquet")
        (folder / "val.json").write_text(json.dumps(values))
        found.append(values["val/accuracy"])
    return statistics.fmean(found)


@torch.no_grad()
def score(model: nn.Module, held_out: BatchLoader, scores: ClassificationScores) -> tuple[dict[str, float], Any]:
    """Returns loss, accuracy and F1 on a fold's held-out samples, and a table of its predictions."""
    model.eval()
    ids, labels, logits = [], [], []
    for batch in held_out:
        logits_BK = model(batch["image"])
        scores.update(logits_BK, batch["label"])
        ids += batch["id"]
        labels.append(batch["label"])
        logits.append(logits_BK)
    values = {"val/loss": float(scores.loss.compute())}
    values |= {name: float(value) for name, value in scores.rates.compute().items()}
    scores.loss.reset()
    scores.rates.reset()
    probability = torch.cat(logits).softmax(dim=1)
    table = {"id": ids, "label": torch.cat(labels).numpy(), "prediction": probability.argmax(dim=1).numpy()}
    return values, {**table, "probability": list(probability.numpy())}


def bare(network: Callable[[], nn.Module], data: ImageData, folds: int, epochs: int) -> float:
    """Does only what no loop can omit; returns the mean accuracy."""
    pattern = classifier(network).network
    found = []
    for fold in plan_folds(data, folds).folds:
        part = data.with_split(fold.train_ids, fold.val_ids)
        loader, held_out = part.train_dataloader(), part.val_dataloader()
        train, val = (each.data.fetch(np.arange(each.plan.n), 0) for each in (loader, held_out))
        model = copy.deepcopy(pattern)
        optimizer = sgd(model.parameters())
        schedule = WarmupCosine(optimizer)
        schedule.start(epochs * len(loader))
        right = math.nan
        for epoch in range(epochs):
            model.train()
            for indices in loader.plan.batches(epoch):
                at = torch.from_numpy(indices)
                loss = functional.cross_entropy(model(train["image"][at]), train["label"][at])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
            right = validate(model, val, data.batch_size)
        found.append(right)
    return statistics.fmean(found)


@torch.no_grad()
def validate(model: nn.Module, val: dict, batch_size: int) -> float:
    """Returns the accuracy on a fold's held-out samples."""
    model.eval()
    batches = zip(val["image"].split(batch_size), val["label"].split(batch_size), strict=True)
    return sum(int((model(image).argmax(1) == label).sum()) for image, label in batches) / len(val["label"])


def suite(network: Callable[[], nn.Module], data: ImageData, folds: int, epochs: int, n_jobs: int, root: str) -> float:
    """Cross-validates with everything that a run has on the command line except TensorBoard."""
    run = Run.create("own/benchmark", root, {})
    table = TidyLogger(run.path / "metrics.csv")
    trainer = plcourse.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        num_sanity_val_steps=0,
        default_root_dir=str(run.path),
        logger=[table],
        callbacks=[RunCheckpoint(), RunRecorder(run, table)],
        enable_progress_bar=False,
        enable_model_summary=False,
        fit_loop=lambda trainer: KFoldLoop(trainer, folds, n_jobs=n_jobs, monitor="val/accuracy", mode="max"),
    )
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.fit(classifier(network), data)
    return read_record(run.path / "summary.json")["metrics"]["val/accuracy"]["mean"]


def main() -> None:
    """Runs the alternatives in turns and prints medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds, after one to warm up")
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--only", help="only networks whose name contains this")
    options = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    work = f"{options.folds} folds x {options.epochs} epochs on the digits"
    print(f"{work}, {options.rounds} rounds, one thread per process", flush=True)
    for name, (batch_size, network) in NETWORKS.items():
        if not options.only or options.only in name:
            compare(name, batch_size, network, options)


def compare(name: str, batch_size: int, network: Callable[[], nn.Module], options: argparse.Namespace) -> None:
    """Times the alternatives for one network."""
    data = ImageData("digits", batch_size=batch_size)
    data.setup("fit")
    work = (network, data, options.folds, options.epochs)
    seconds: dict[str, list[float]] = {"bare": [], "plain": [], "one job": [], "two jobs": []}
    scores: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as root:
        ways: dict[str, Callable[[], float]] = {
            "bare": lambda: bare(*work),
            "plain": lambda: plain(*work, root),
            "one job": lambda: suite(*work, 1, root),
            "two jobs": lambda: suite(*work, 2, root),
        }
        for turn in range(options.rounds + 1):
            for way, run in ways.items():
                began = time.perf_counter()
                scores[way] = run()
                if turn:
                    seconds[way].append(time.perf_counter() - began)
            for way, score in scores.items():
                assert math.isclose(score, scores["plain"], abs_tol=0.005), f"{way}: {score}, {scores}"
    print(f"\n{name}: the same mean accuracy four times, {scores['plain']:.4f}")
    for way, values in seconds.items():
        print(f"  {way:9} {statistics.median(values):6.2f} s ({min(values):.2f} to {max(values):.2f})")
    for way, base in (("one job", "plain"), ("one job", "bare"), ("plain", "bare"), ("one job", "two jobs")):
        ratios = [a / b for a, b in zip(seconds[way], seconds[base], strict=True)]
        print(f"  {way} / {base}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
