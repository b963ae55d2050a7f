"""The type that loops see of the Trainer which creates them: declarations only, so that no import goes in a circle."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.profilers import Profiler

from plcourse.training.leak_check import TrainingSamples
from plcourse.training.safe_points import SafePoint


class TypedTrainer(pl.Trainer):
    """Lightning's Trainer with the attributes that type checkers do not find there.

    Attributes:
        changed_callbacks: arguments of callbacks that a resumed run changes, as pairs of callback and name; None if it
            changes nothing about its callbacks.
        path_to_restore: the checkpoint that the present run restores; None for none.
        safe_point: what happens between batches and epochs.
        training_samples: what the model was trained on.
    """

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
    safe_point: SafePoint
    training_samples: TrainingSamples
    changed_callbacks: list[tuple[pl.Callback, str]] | None = None
    path_to_restore: Any = None
