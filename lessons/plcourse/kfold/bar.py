"""The progress of a cross-validation: one bar over all folds, and a line for each finished fold."""

import sys
from collections.abc import Sequence
from typing import NoReturn

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from tqdm import tqdm

from plcourse.console import say
from plcourse.kfold.fold_run import FoldRun
from plcourse.kfold.folds import Fold


class FoldBar(Callback):
    """A bar that counts folds, and the epochs of the running fold as fractions.

    If standard error is not a terminal, only the lines are printed; if not ``enabled``, nothing is.
    """

    def __init__(self, enabled: bool) -> None:
        self._enabled = enabled
        self._bar: tqdm[NoReturn] | None = None
        self._done = self._count = 0

    def open(self, folds: Sequence[FoldRun], pending: Sequence[FoldRun]) -> None:
        """Starts the bar with the number of folds that are already finished."""
        self._count, self._done = len(folds), len(folds) - len(pending)
        if self._done and self._enabled:
            say(f"{self._done} of {self._count} folds are already finished")
        if self._enabled and sys.stderr.isatty():
            form = "{desc}: {percentage:3.0f}%|{bar}| {n:.3g}/{total} folds [{elapsed}<{remaining}]{postfix}"
            self._bar = tqdm(total=self._count, initial=self._done, desc="folds", leave=False, bar_format=form)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Moves the bar by one epoch of the fold."""
        if self._bar is not None and trainer.max_epochs and trainer.max_epochs > 0:
            self._bar.n = self._done + (trainer.current_epoch + 1) / trainer.max_epochs
            self._bar.refresh()

    def end(self, fold: Fold, line: str) -> None:
        """Completes a fold and prints its line."""
        self._done += 1
        if not self._enabled:
            return
        line = f"fold {fold.number} ({self._done} of {self._count})  {line}"
        if self._bar is None:
            say(line)
        else:
            self._bar.n = self._done
            self._bar.write(line)

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
