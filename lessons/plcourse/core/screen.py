"""What a person sees while a run goes on: one bar, one line per epoch, and what to type next."""

import shutil
import sys
import time
from typing import Any

import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from plcourse.core.accumulation import planned_batches

REFRESH_SECONDS = 0.2
LINE_SECONDS = 1.0


@rank_zero_only
def say(text: str) -> None:
    """Prints a line on standard output at once, on the first rank only."""
    print(text, flush=True)  # noqa: T201  (the one place that does)


class RunProgress(ProgressBar):
    """A bar for the whole fit with the best score so far, and a line per epoch, at most one a second.

    Where standard error is not a terminal there is no bar, only the lines.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: Any = None
        self._next_refresh = 0.0
        self._next_line = 0.0
        self._enabled = True

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
            self._bar = tqdm(total=total, initial=done, desc="fit", leave=False, unit="batch", dynamic_ncols=True)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Moves the bar, a few times a second."""
        if self._bar is None or (now := time.monotonic()) < self._next_refresh:
            return
        self._next_refresh = now + REFRESH_SECONDS
        self._bar.n = trainer.fit_loop.total_batch_idx + 1
        self._bar.set_postfix_str(self._scores(trainer), refresh=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Says how the epoch went."""
        last = trainer.current_epoch + 1 == trainer.max_epochs
        if not self._enabled or (time.monotonic() < self._next_line and not last):
            return
        self._next_line = time.monotonic() + LINE_SECONDS
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
        line = f"epoch {trainer.current_epoch + 1}/{epochs}  {self._scores(trainer)}"
        if self._bar is None:
            say(line)
        else:
            self._bar.write(line[: shutil.get_terminal_size().columns - 1])

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Closes the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Closes the bar, so that the error stands on a line of its own."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _scores(self, trainer: pl.Trainer) -> str:
        parts = []
        checkpoint = getattr(trainer, "run_checkpoint", None)
        if checkpoint is not None and checkpoint.best_model_score is not None:
            parts.append(f"best {checkpoint.best_model_score:.4g} (epoch {checkpoint.best_epoch + 1})")
        for name, value in trainer.progress_bar_metrics.items():
            parts.append(f"{name} {float(value):.4g}")
        return "  ".join(parts)


def table(metrics: dict[str, float]) -> list[str]:
    """The lines of a small table of scores."""
    width = max(map(len, metrics), default=0)
    return [f"  {name:<{width}}  {value:.6g}" for name, value in metrics.items()]
