"""Callbacks that break a run for real; the tests let them in with ``--trust faulty``."""

import os
import shutil
import signal
import subprocess
import threading
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from plcourse.training import run_checkpoint, signals
from plcourse.training.checkpoint import link


class FailAt(pl.Callback):
    """Breaks one rank after a training step.

    Args:
        step: the optimizer step after which it happens.
        how: what happens.
        rank: the rank that it happens to.
        once: a file that is made first; where it exists already, nothing happens, so that a resumed run goes on.
    """

    def __init__(
        self,
        step: int,
        how: Literal["kill", "kill_job", "raise", "exit0", "stall", "stop", "nan", "sigterm", "sigint"],
        rank: int = 0,
        once: str | None = None,
    ) -> None:
        self.step, self.how, self.rank, self.once = step, how, rank, once

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.how == "nan" and self._now(trainer):
            batch["image"].fill_(float("nan"))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        if self.how == "nan" or not self._now(trainer):
            return
        job = os.getppid() if trainer.world_size > 1 else os.getpid()
        match self.how:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "kill_job":
                os.kill(job, signal.SIGKILL)
                time.sleep(60)  # the ranks go down with their supervisor
            case "raise":
                raise ZeroDivisionError("planted")
            case "exit0":
                os._exit(0)
            case "stall":
                time.sleep(600)
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "sigterm":
                os.kill(job, signal.SIGTERM)
            case "sigint":
                os.kill(job, signal.SIGINT)

    def _now(self, trainer: pl.Trainer) -> bool:
        if trainer.global_step != self.step or trainer.global_rank != self.rank:
            return False
        if self.once is not None:
            if Path(self.once).exists():
                return False
            Path(self.once).touch()
        return True


class StallWhenAsked(FailAt):
    """Asks the process to end after a step, and does not end the next one; the suite waits a second instead of 60.

    Args:
        step: as in `FailAt`.
        deaf: whether the step does not notice signals, as some libraries do not.
    """

    def __init__(self, step: int, deaf: bool = False) -> None:
        super().__init__(step, "sigterm")
        self.deaf = deaf

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if not self._now(trainer):
            return
        signals.STOP_SECONDS = signals._GRACE = 1.0
        super().on_train_batch_end(trainer, pl_module, *args)
        with suppress(BaseException) if self.deaf else nullcontext():
            time.sleep(60)
        time.sleep(60)


class FailInFold(FailAt):
    """Breaks a cross-validation in one of its folds.

    Args:
        fold: the number of the fold.
        step: as in `FailAt`, counted within the fold.
        how: what happens.
        rank: the rank that it happens to.
        once: as in `FailAt`.
    """

    def __init__(
        self,
        fold: int,
        step: int,
        how: Literal["kill", "kill_job", "raise", "stall", "nan", "sigterm", "sigint"],
        rank: int = 0,
        once: str | None = None,
    ) -> None:
        super().__init__(step, how, rank, once)
        self.fold = fold

    def _now(self, trainer: pl.Trainer) -> bool:
        return Path(trainer.default_root_dir).name == str(self.fold) and super()._now(trainer)


class UnevenNorm(torch.nn.Module):
    """A linear model behind a batch norm, whose buffers DDP broadcasts in every forward pass."""

    def __init__(self, features: int = 64, num_classes: int = 10) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.BatchNorm1d(features), torch.nn.Linear(features, num_classes)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image)


class SmoothNet(torch.nn.Module):
    """A convolutional network with group norm and no ReLU.

    A ReLU whose input is zero to rounding passes a gradient in one run and none in another: that is no rounding error
    any more, and in single precision it happens within a few steps.
    """

    def __init__(self, width: int = 8, num_classes: int = 10) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, width, 3, padding=1),
            torch.nn.GroupNorm(4, width),
            torch.nn.SiLU(),
            torch.nn.Conv2d(width, width, 3, stride=2, padding=1),
            torch.nn.GroupNorm(4, width),
            torch.nn.SiLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(16 * width, num_classes),
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image)


class KeepGradients(pl.Callback):
    """Writes the gradients that each optimizer step took, of rank 0.

    Args:
        path: the file, a list of dictionaries from the parameter's name to its gradient.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:
        self.steps.append(
            {name: weight.grad.clone() for name, weight in pl_module.named_parameters() if weight.grad is not None}
        )

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            torch.save(self.steps, self.path)


class CountReductions(pl.Callback):
    """Counts the buckets that DDP averages.

    Args:
        path: the file for the counts of rank 0: one number per training batch.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.now = 0
        self.counts: list[int] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        model: Any = trainer.strategy.model
        model.register_comm_hook(None, self._average)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        self.counts.append(self.now)
        self.now = 0

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            Path(self.path).write_text(" ".join(map(str, self.counts)))

    # DDP checks the annotation of the bucket
    def _average(
        self,
        state: None,
        bucket: dist.GradBucket,  # pyright: ignore[reportPrivateImportUsage]
    ) -> torch.futures.Future[torch.Tensor]:
        self.now += 1
        assert dist.group.WORLD is not None
        return allreduce_hook(dist.group.WORLD, bucket)


class SlowBatches(pl.Callback):
    """Makes every batch take longer.

    Args:
        seconds: how much longer.
        where: ``loader`` delays fetching it, ``step`` delays the step.
        rank: the rank it happens to; every one when negative.
    """

    def __init__(self, seconds: float, where: Literal["loader", "step"], rank: int = -1) -> None:
        self.seconds, self.where, self.rank = seconds, where, rank

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.where == "loader":
            loader: Any = trainer.train_dataloader
            data = loader.data
            fetch = data.fetch

            def slow(*args: Any) -> Any:
                time.sleep(self.seconds)
                return fetch(*args)

            data.fetch = slow

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        if self.where == "step" and self.rank in (-1, trainer.global_rank):
            time.sleep(self.seconds)


class KillPrediction(pl.Callback):
    """Kills the job while it predicts.

    Args:
        batch: the batch of rank 0 after which it happens.
        delay: seconds later, while the next batches are computed and written.
    """

    def __init__(self, batch: int, delay: float = 0.0) -> None:
        self.batch, self.delay = batch, delay

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        if args[2] == self.batch and trainer.global_rank == 0:
            job = os.getppid() if trainer.world_size > 1 else os.getpid()
            threading.Timer(self.delay, os.kill, (job, signal.SIGKILL)).start()


class BreakFolder(FailAt):
    """Takes the run's folder from under the run after a training step.

    Args:
        step: the optimizer step after which it happens.
        how: ``fill`` leaves no byte free on its file system, ``lock`` lets nothing be made, changed or removed in it
            (which binds root too), ``delete`` removes it with all that it holds.
        once: as in `FailAt`.
    """

    def __init__(self, step: int, how: Literal["fill", "lock", "delete"], once: str | None = None) -> None:
        super().__init__(step, "raise", once=once)
        self.place = how

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if not self._now(trainer):
            return
        run = Path(trainer.default_root_dir)
        match self.place:
            case "fill":
                fill(run.parent)
            case "lock":
                subprocess.run(["chattr", "-R", "+i", str(run)], check=True)
            case "delete":
                shutil.rmtree(run)


class SlowLinks(pl.Callback):
    """Makes rank 0 late with the second name of each checkpoint, ``best.ckpt``, as a busy disk would.

    Args:
        seconds: how late.
    """

    def __init__(self, seconds: float) -> None:
        def late(source: Path, target: Path) -> None:
            time.sleep(seconds)
            link(source, target)

        run_checkpoint.link = late


def fill(folder: Path) -> None:
    """Writes ``filler`` into a folder until its file system is full."""
    with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(1 << 16)):
            pass
        while file.write(b"x"):  # unbuffered writes stop short at the last bytes
            pass
