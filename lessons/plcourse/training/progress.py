"""Prints the progress of a run: one bar and one line per epoch."""

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from plcourse.console import say
from plcourse.console.layout import flowed, width
from plcourse.data.samplers import planned_batches

REFRESH_SECONDS = 0.2
LINE_SECONDS = 1.0
_NARROW = 72  # columns below which the bar does not show speed and time


class RunProgress(ProgressBar):
    """A bar for the whole fit with the best score so far, and a line per epoch, at most one a second.

    If standard error is not a terminal, there are only the lines. A line shows what was logged in its epoch, and says
    which epochs before it have no line.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm | None = None
        self._next_refresh = 0.0
        self._next_line = 0.0
        self._enabled = True
        self._earlier: dict[str, object] = {}
        self._waiting: list[tuple[int, list[str]]] = []  # epochs that have no line yet

    def disable(self) -> None:
        """Switches the bar off; Lightning calls this on every rank but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Switches the bar on again."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the bar, at the step from which a resumed run continues."""
        if self._enabled and sys.stderr.isatty():
            batches = planned_batches(trainer, trainer.max_epochs, trainer.max_steps)
            total = None if batches == float("inf") else int(batches)
            done = trainer.fit_loop.total_batch_idx + 1
            self._bar = tqdm(total=total, initial=done, desc="fit", leave=False, unit="batch")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Records what was logged before this epoch, which Lightning continues to report."""
        self._earlier = dict(trainer.progress_bar_metrics)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar, a few times a second."""
        if self._bar is None or (now := time.monotonic()) < self._next_refresh:
            return
        self._next_refresh = now + REFRESH_SECONDS
        self._bar.n = trainer.fit_loop.total_batch_idx + 1
        self._draw(self._scores(trainer))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints the scores of the epoch."""
        if not self._enabled:
            return
        self._waiting.append((trainer.current_epoch + 1, self._scores(trainer)))
        if time.monotonic() >= self._next_line or trainer.current_epoch + 1 == trainer.max_epochs:
            self._say_epoch(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prints the last epoch, if it has no line yet, and closes the bar."""
        if self._waiting:
            self._say_epoch(trainer)
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Closes the bar, so that the error begins on a new line."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _say_epoch(self, trainer: pl.Trainer) -> None:
        """Prints the newest epoch, and which epochs before it are only in the table."""
        self._next_line = time.monotonic() + LINE_SECONDS
        *left_out, (epoch, scores) = self._waiting
        self._waiting = []
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
        parts = [f"epoch {epoch}/{epochs}", *scores]
        if left_out:
            first, last = left_out[0][0], left_out[-1][0]
            parts.append(f"(epoch{f' {first}' if first == last else f's {first} to {last}'}: see metrics.csv)")
        lines = "\n".join(flowed(parts, width()))
        say(lines) if self._bar is None else self._bar.write(lines)

    def _draw(self, scores: list[str]) -> None:
        """Draws the bar with as many scores as fit."""
        columns, bar = (width(sys.stderr) or 80) - 1, self._bar
        assert bar is not None
        bar.ncols = columns
        bar.bar_format = None if columns >= _NARROW else "{desc} {n_fmt}/{total_fmt}{postfix}"
        bar.set_postfix_str("", refresh=False)
        used = len(tqdm.format_meter(**{**bar.format_dict, "ncols": 0 if bar.bar_format is None else None}))
        shown = ""
        for score in scores:
            longer = f"{shown}  {score}" if shown else score
            if used + len(longer) + 4 > columns:
                break
            shown = longer
        bar.set_postfix_str(shown, refresh=True)

    def _scores(self, trainer: pl.Trainer) -> list[str]:
        parts = []
        checkpoint = getattr(trainer, "run_checkpoint", None)
        if checkpoint is not None and checkpoint.best_model_score is not None:
            best = f"best {checkpoint.monitor} {checkpoint.best_model_score:.4g}"
            parts.append(f"{best} (epoch {checkpoint.best_epoch + 1})")
        for name, value in trainer.progress_bar_metrics.items():
            if value is not self._earlier.get(name):
                parts.append(f"{name} {float(value):.4g}")
        return parts


def table(metrics: dict[str, float]) -> list[str]:
    """Returns the lines of a table of scores; a value is below its name if the terminal is too narrow for both."""
    longest, limit = max(map(len, metrics), default=0), width()
    lines = [f"  {name:<{longest}}  {value:.6g}" for name, value in metrics.items()]
    if limit is None or max(map(len, lines), default=0) <= limit:
        return lines
    return [line for name, value in metrics.items() for line in flowed([name, f"{value:.6g}"], limit, "  ", "    ")]
