"""What a person sees while a run goes on: one bar, one line per epoch, and what to type next."""

import sys
import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from plcourse.console import say
from plcourse.console.layout import flowed, width
from plcourse.data.accumulation import planned_batches

REFRESH_SECONDS = 0.2
LINE_SECONDS = 1.0
_NARROW = 72  # columns below which the bar has no room for speed and time


class RunProgress(ProgressBar):
    """A bar for the whole fit with the best score so far, and a line per epoch, at most one a second.

    Where standard error is not a terminal there is no bar, only the lines. A line says which epochs had none, and shows
    only what was logged in its epoch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None
        self._next_refresh = 0.0
        self._next_line = 0.0
        self._enabled = True
        self._earlier: dict[str, Any] = {}
        self._waiting: list[tuple[int, list[str]]] = []  # epochs without a line so far

    def disable(self) -> None:
        """Called by Lightning on every rank but the first."""
        self._enabled = False

    def enable(self) -> None:
        """Called by Lightning to undo `disable`."""
        self._enabled = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Opens the bar, at the step that a resumed run goes on from."""
        if self._enabled and sys.stderr.isatty():
            batches = planned_batches(trainer, trainer.max_epochs, trainer.max_steps)
            total = None if batches == float("inf") else int(batches)
            done = trainer.fit_loop.total_batch_idx + 1
            self._bar = tqdm(total=total, initial=done, desc="fit", leave=False, unit="batch")

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes what was logged before this epoch; Lightning goes on to give it as if it were new."""
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
        """Says how the epoch went."""
        if not self._enabled:
            return
        self._waiting.append((trainer.current_epoch + 1, self._scores(trainer)))
        if time.monotonic() >= self._next_line or trainer.current_epoch + 1 == trainer.max_epochs:
            self._say_epoch(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says how the last epoch went, if it has no line yet, and closes the bar."""
        if self._waiting:
            self._say_epoch(trainer)
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Closes the bar, so that the error stands on a line of its own."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _say_epoch(self, trainer: pl.Trainer) -> None:
        """The line of the newest epoch, and which ones before it are only in the table."""
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
        """Draws the bar with as many of the scores as it has room for, whole ones."""
        columns = (width(sys.stderr) or 80) - 1
        bar = self._bar
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
    """The lines of a small table of scores; where a line is too narrow for both, a value stands below its name."""
    longest, limit = max(map(len, metrics), default=0), width()
    lines = [f"  {name:<{longest}}  {value:.6g}" for name, value in metrics.items()]
    if limit is None or max(map(len, lines), default=0) <= limit:
        return lines
    return [line for name, value in metrics.items() for line in flowed([name, f"{value:.6g}"], limit, "  ", "    ")]
