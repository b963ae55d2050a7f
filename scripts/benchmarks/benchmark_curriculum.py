"""Measures a training step of a curriculum: plain training, its loop with all samples, and its loop with pacing.

It uses the model and the data of the packaged configs (an MLP on mnist5k, batches of 64) on one thread, without
validation, and times the training alone. Scoring happens once before it and is printed separately. All arms take equal
steps of equal sizes and take turns at going first.

    python scripts/benchmarks/benchmark_curriculum.py
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

import plcourse
from plcourse.cli import quieten
from plcourse.curriculum.data import CurriculumData
from plcourse.curriculum.loop import CurriculumLoop
from plcourse.curriculum.model import CurriculumClassifier
from plcourse.curriculum.pacing import PacingFunction
from plcourse.curriculum.scorers import ClassifierMargin, Scorer, TrainingSamples
from plcourse.curriculum.self_paced import SelfPacing
from plcourse.ddp.networks import MLP
from plcourse.runs.recorder import RunRecorder, TidyLogger
from plcourse.runs.run import Run
from plcourse.training.loops import FitLoop

BATCH = 64


class Clock(pl.Callback):
    """Times the training from start to end, without scoring and set-up."""

    def __init__(self) -> None:
        self.seconds, self.samples = 0.0, 0

    def on_train_start(self, trainer, pl_module):
        self.seconds = time.perf_counter()

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.samples += len(batch["label"])

    def on_train_end(self, trainer, pl_module):
        self.seconds = time.perf_counter() - self.seconds


class Known(Scorer):
    """Computes the margins once for all rounds."""

    def __init__(self) -> None:
        self.scores: np.ndarray | None = None
        self.seconds = 0.0

    def __call__(self, samples: TrainingSamples) -> np.ndarray:
        if self.scores is None:
            start = time.perf_counter()
            self.scores = ClassifierMargin()(samples)
            self.seconds = time.perf_counter() - start
        return self.scores


def train(loop: Callable[[pl.Trainer], FitLoop], data: CurriculumData, epochs: int, folder: str) -> Clock:
    """Trains once, with the table and record of a run."""
    clock, run = Clock(), Run.create("own/benchmark", folder, {})
    table = TidyLogger(run.path / "metrics.csv")
    trainer = plcourse.Trainer(
        fit_loop=loop,
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        default_root_dir=str(run.path),
        logger=[table],
        limit_val_batches=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[clock, RunRecorder(run, table)],
    )
    torch.manual_seed(0)
    trainer.fit(CurriculumClassifier(MLP(784, hidden=(256,)), lr_scheduler=None), data)
    return clock


def main() -> None:
    """Runs the arms in turns and prints medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="counted rounds, after one to warm up")
    parser.add_argument("--epochs", type=int, default=10, help="epochs per round")
    options = parser.parse_args()
    quieten()
    torch.set_num_threads(1)
    data = CurriculumData("mnist5k", batch_size=BATCH, val_size=500, test_size=1000)
    data.setup("fit")
    scorer = Known()

    def curriculum(**arguments: Any) -> Callable[[pl.Trainer], FitLoop]:
        return lambda trainer: CurriculumLoop(trainer, scorer=scorer, **arguments)

    arms: dict[str, Callable[[pl.Trainer], FitLoop]] = {
        "iid": curriculum(),
        "plain": FitLoop,
        "easy_first": curriculum(pacing=PacingFunction("linear", start=0.2, ramp=0.5)),
        "self_paced": curriculum(weighting=SelfPacing()),
    }
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    samples: dict[str, int] = {}
    steps = len(data.train_dataloader()) * options.epochs
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds + 1):
            names = list(arms)
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                clock = train(arms[name], data, options.epochs, folder)
                samples[name] = clock.samples
                if turn:
                    seconds[name].append(clock.seconds / steps * 1e6)
    assert len(set(samples.values())) == 1, samples
    print(
        f"{steps} steps a round, {options.rounds} rounds, batch {BATCH}, 1 thread, {samples['iid']} samples in each arm"
    )
    print(f"scoring with ClassifierMargin, once: {scorer.seconds:.2f} s")
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values, seconds["iid"], strict=True)]
        print(
            f"{name:10} {statistics.median(values):6.0f} us a step, {statistics.median(ratios):.3f} x iid "
            f"({min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
