"""Trainers that print nothing, and a model and data on which they train for a moment."""

from typing import Any

import pytest
import pytorch_lightning as pl

from plcourse import Trainer
from plcourse.ddp.data import ImageData
from plcourse.ddp.model import ImageClassifier
from plcourse.ddp.networks import MLP
from plcourse.training.run_checkpoint import RunCheckpoint

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
BATCHES = 8  # that tests with `digits` train on in an epoch
SMALL_DATA = [  # marks of tests whose loaders have few batches and no workers
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
]


def quiet_trainer(**settings: Any) -> Trainer:
    """The suite's Trainer on one CPU, without a logger, a progress bar or a summary.

    Args:
        **settings: of the Trainer. Checkpoints are saved only if they name a folder, by ``default_root_dir``, or a
            `RunCheckpoint`.
    """
    saves = any(isinstance(callback, RunCheckpoint) for callback in settings.get("callbacks") or [])
    return Trainer(**{**QUIET, "enable_checkpointing": saves or "default_root_dir" in settings, **settings})


def short_trainer(**settings: Any) -> Trainer:
    """A `quiet_trainer` for one epoch of 3 batches, validated on 2."""
    short = {"max_epochs": 1, "limit_train_batches": 3, "limit_val_batches": 2, "num_sanity_val_steps": 0}
    return quiet_trainer(**{**short, **settings})


def digits() -> tuple[ImageClassifier, ImageData]:
    """A classifier with dropout, the same each time, and its data."""
    pl.seed_everything(3, verbose=False)
    return ImageClassifier(MLP(64, dropout=0.3)), ImageData("digits", batch_size=32)
