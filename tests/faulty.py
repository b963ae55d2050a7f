"""Callbacks that break a run for real; the tests let them in with ``--trust faulty``."""

import os
import signal
import time
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch


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

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
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


class UnevenNorm(torch.nn.Module):
    """A linear model behind a batch norm, whose buffers DDP broadcasts in every forward pass."""

    def __init__(self, features: int = 64, num_classes: int = 10) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.BatchNorm1d(features), torch.nn.Linear(features, num_classes)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.layers(image)
