"""What cross-validation costs: 10 folds x 15 epochs on the digits by plain torch loops, and by KFoldLoop, interleaved.

The plain loop does the work itself and nothing else: for each fold the same initial weights, batches, optimizer and
schedule, a validation after each epoch, and the out-of-fold scores in the end. KFoldLoop also keeps a run per fold:
record, table, checkpoint, predictions; then the summary and its plot. The mean accuracies are compared. One intra-op
thread per process. Timed is everything after the imports and the reading of the data.

    python scripts/benchmark_kfold.py
"""

import argparse
import contextlib
import copy
import io
import math
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn import functional

import plcourse
from plcourse.cli import quieten
from plcourse.core.checkpoint import RunCheckpoint
from plcourse.core.record import RunRecorder, TidyLogger
from plcourse.core.runs import Run, read_record
from plcourse.core.schedules import WarmupCosine
from plcourse.ddp.data import ImageData
from plcourse.ddp.model import MLP, ImageClassifier, ResNet
from plcourse.kfold.folds import plan_folds
from plcourse.kfold.loop import KFoldLoop

SEED = 0
NETWORKS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "MLP, batch 64": (64, lambda: MLP(hidden=(128,))),
    "MLP, batch 256": (256, lambda: MLP(hidden=(512, 512))),
    "ResNet, batch 64": (64, lambda: ResNet(widths=(16, 32))),
}


def sgd(params) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True)


def classifier(network: Callable[[], nn.Module]) -> ImageClassifier:
    """The same weights every time."""
    pl.seed_everything(SEED, verbose=False)
    return ImageClassifier(network(), optimizer=sgd, lr_scheduler=WarmupCosine)


def plain(network: Callable[[], nn.Module], data: ImageData, folds: int, epochs: int) -> float:
    """The loops that nothing can beat; returns the mean accuracy."""
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
    """The accuracy on a fold's held-out samples."""
    model.eval()
    batches = zip(val["image"].split(batch_size), val["label"].split(batch_size), strict=True)
    return sum(int((model(image).argmax(1) == label).sum()) for image, label in batches) / len(val["label"])


def suite(network: Callable[[], nn.Module], data: ImageData, folds: int, epochs: int, n_jobs: int, root: str) -> float:
    """A cross-validated run with everything that it has on the command line but TensorBoard."""
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
    """Runs the alternatives in turn and prints medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds, after one that is not counted")
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--only", help="a part of a network's name")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
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
    seconds: dict[str, list[float]] = {"plain": [], "one job": [], "two jobs": []}
    scores: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as root:
        ways: dict[str, Callable[[], float]] = {
            "plain": lambda: plain(*work),
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
    print(f"\n{name}: the same mean accuracy three times, {scores['plain']:.4f}")
    for way, values in seconds.items():
        print(f"  {way:9} {statistics.median(values):6.2f} s ({min(values):.2f} to {max(values):.2f})")
    for label, way, base in (("one job / plain", "one job", "plain"), ("one job / two jobs", "one job", "two jobs")):
        ratios = [a / b for a, b in zip(seconds[way], seconds[base], strict=True)]
        print(f"  {label}: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
