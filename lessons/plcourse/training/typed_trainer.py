"""Declares the Trainer's attributes for the loops that it creates, which cannot import it without a cycle."""

from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.profilers import Profiler

from plcourse.training.leak_check import TrainingSamples
from plcourse.training.safe_points import SafePoint


class TypedTrainer(pl.Trainer):
    """Lightning's Trainer with the attributes that type checkers do not find there."""

    # set by Lightning's connectors
    callbacks: list[pl.Callback]
    check_val_every_n_epoch: int | None
    datamodule: pl.LightningDataModule | None
    fast_dev_run: bool | int
    gradient_clip_val: float | None
    limit_predict_batches: int | float
    log_every_n_steps: int
    profiler: Profiler
    _val_check_time_interval: float | None

    # set by `plcourse.Trainer`
    safe_point: SafePoint  # acts between batches and between epochs
    training_samples: TrainingSamples  # what the model was trained on
    # Arguments of callbacks that a resumed run changes, as pairs of callback and name; None if it changes none.
    changed_callbacks: list[tuple[pl.Callback, str]] | None = None
    path_to_restore: str | Path | None = None  # the checkpoint that the present run restores
