"""Keeps the weights of the best fold in the checkpoints of the whole run."""

import math
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from plcourse.data.provenance import trainings_of
from plcourse.kfold.fold_run import FoldRun
from plcourse.processes.collectives import from_rank_0
from plcourse.training.checkpoint import BEST, LAST, link, load
from plcourse.training.run_checkpoint import MIN_SECONDS
from plcourse.training.trainer import Trainer

_OF_THE_TRAINING = (
    *("epoch", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers", "plcourse"),
    *("current_model_state", "averaging_state"),  # of Lightning's WeightAveraging
)


class BestFold(Callback):
    """Writes the checkpoints of the whole run with the weights of its best fold, so that they hold a trained model."""

    def __init__(self, trainer: Trainer) -> None:
        self.keeper = trainer.run_checkpoint  # if None, nothing is written
        self._folder = Path(trainer.default_root_dir) / "checkpoints"
        if self.keeper is not None:
            self.keeper.dirpath = str(self._folder)
        self._source: Path | None = None  # the checkpoint of the best fold
        self._saved_at = -math.inf

    def save(self, trainer: Trainer, best: FoldRun | None) -> None:
        """Writes the run's checkpoint if the best fold has changed or the last checkpoint is old; a collective."""
        if self.keeper is None:
            return
        source = None if best is None else best.best
        due = source != self._source or time.monotonic() - self._saved_at >= MIN_SECONDS
        if not from_rank_0(due):  # saving is a collective, so one clock decides
            return
        self._source, self._saved_at = source, time.monotonic()
        trainer.save_checkpoint(self._folder / LAST)
        if trainer.is_global_zero and source is not None:
            link(self._folder / LAST, self._folder / BEST)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Copies weights, hyperparameters and data state of the best fold, but not the state of its training."""
        if self._source is not None:
            found = load(self._source)
            if trainer.is_global_zero:
                for training in trainings_of(found, self._source.parent):
                    training.save(self._folder)
            checkpoint.update({key: value for key, value in found.items() if key not in _OF_THE_TRAINING})
