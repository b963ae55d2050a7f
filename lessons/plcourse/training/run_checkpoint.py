"""The callback that keeps the best, the last and the previous checkpoint of a run, and decides when to write them."""

from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from plcourse.errors import UserError, nearest
from plcourse.training.checkpoint import BEST, LAST, PREVIOUS, link, verify

MIN_SECONDS = 1.0  # between two checkpoints that are due only because a short epoch has ended


class RunCheckpoint(Checkpoint):
    """Keeps ``best.ckpt``, ``last.ckpt`` and the checkpoint before it, ``previous.ckpt``, each complete and resumable.

    Checkpoints are written only at safe points (see `plcourse.training.safe_points`), so that each resumes bit for
    bit. The best one is the state at the first safe point after the validation with the best score.

    Args:
        monitor: the metric that defines the best checkpoint, such as ``val/accuracy``; None keeps the latest as best.
        mode: whether a larger (``max``) or a smaller (``min``) value is better.
        every_n_epochs: epochs between two checkpoints, 1 or more.
        every_n_train_steps: optimizer steps between two checkpoints within an epoch; None for none.
        train_time_interval: time after which a checkpoint is written within a long epoch; None for never.
        dirpath: the folder; a run sets it to its ``checkpoints/``.

    Raises:
        ValueError: an interval below 1.
    """

    def __init__(
        self,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        every_n_epochs: int = 1,
        every_n_train_steps: int | None = None,
        train_time_interval: timedelta | None = timedelta(minutes=10),
        dirpath: str | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("every_n_epochs", every_n_epochs), ("every_n_train_steps", every_n_train_steps)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")
        if mode not in ("min", "max"):
            raise ValueError(f"mode is {mode!r}; it must be 'min' or 'max'")
        self.monitor, self.mode = monitor, mode
        self.every_n_epochs, self.every_n_train_steps = every_n_epochs, every_n_train_steps
        self.train_time_interval = train_time_interval
        self.dirpath = dirpath
        self.best_model_score: float | None = None
        self.best_step = self.best_epoch = 0
        self._scored_epoch = -1
        self._new_best = self._resumed = self._validated = False
        self._last_is_good = self._written = False

    @property
    def state_key(self) -> str:
        """The same key for all arguments, so that a changed interval does not lose the best score."""
        return "RunCheckpoint"

    @property
    def best_model_path(self) -> str:
        """The best checkpoint, or an empty string before there is one; other nodes than rank 0's may lack the file."""
        written = self._written or (self._resumed and self.best_model_score is not None)
        return str(self._file(BEST)) if self.dirpath and (self._file(BEST).is_file() or written) else ""

    @property
    def last_model_path(self) -> str:
        """The last checkpoint, or an empty string before there is one."""
        return str(self._file(LAST)) if self.dirpath and self._file(LAST).is_file() else ""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Uses a folder below the trainer's root if no run has set one."""
        if self.dirpath is None:
            self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Cleans up after a kill: removes half-written files, and links a best checkpoint that was not linked yet."""
        if not trainer.is_global_zero:
            return
        for left in self._file(LAST).parent.glob(".*.tmp"):
            left.unlink(missing_ok=True)
        start = Path(getattr(trainer, "ckpt_path", None) or "")
        was_best = self._resumed and trainer.global_step == self.best_step
        if was_best and start.name != BEST and start.parent == self._file(LAST).parent:
            link(start, self._file(BEST))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Records whether this validation inside a fit had the best score so far."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._validated = True
            self._score(trainer, _epochs_processed(trainer))

    def is_due(self, step: int) -> bool:
        """Whether to save between two batches, after ``step`` optimizer steps; the same on all ranks."""
        return self._new_best or (self.every_n_train_steps is not None and step % self.every_n_train_steps == 0)

    def is_late(self, seconds: float) -> bool:
        """Whether a checkpoint is due because the last one is ``seconds`` old."""
        return self.train_time_interval is not None and seconds >= self.train_time_interval.total_seconds()

    def is_due_after_epoch(self, trainer: pl.Trainer, seconds: float) -> bool:
        """Whether to save after an epoch, ``seconds`` after the last checkpoint.

        Always after the best and the last epoch; after others at most once a second.
        """
        epochs = _epochs_processed(trainer)
        if self._scored_epoch < epochs - 1:
            self._score(trainer, epochs - 1)
        if self.monitor is not None and self.best_model_score is None:
            self._refuse_unknown_monitor(trainer)
        ends = epochs == trainer.max_epochs or 0 <= trainer.max_steps <= trainer.global_step
        if self._new_best or trainer.should_stop or ends:
            return True
        return epochs % self.every_n_epochs == 0 and seconds >= MIN_SECONDS

    def save(self, trainer: pl.Trainer) -> None:
        """Writes last.ckpt, and best.ckpt if it is due; called on every rank, at a safe point."""
        last, best = self._file(LAST), self._file(BEST)
        is_best, self._new_best = self._new_best, False
        if trainer.is_global_zero and last.is_file() and (self._last_is_good or verify(last)):
            link(last, self._file(PREVIOUS))
        trainer.save_checkpoint(last)
        self._last_is_good = self._written = True
        if trainer.is_global_zero and (is_best or self.best_model_score is None):
            link(last, best)

    def state_dict(self) -> dict[str, Any]:
        """Returns the best score, its metric, and when it was reached."""
        best = {"best": self.best_model_score, "best_step": self.best_step, "best_epoch": self.best_epoch}
        return {"monitor": self.monitor, "mode": self.mode, **best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best score, unless another metric is monitored now."""
        self._resumed = True
        if (state_dict.get("monitor", self.monitor), state_dict.get("mode", self.mode)) != (self.monitor, self.mode):
            return
        self.best_model_score = state_dict["best"]
        self.best_step, self.best_epoch = state_dict["best_step"], state_dict["best_epoch"]

    def _file(self, name: str) -> Path:
        assert self.dirpath is not None
        return Path(self.dirpath) / name

    def _score(self, trainer: pl.Trainer, epoch: int) -> None:
        if self.monitor is None:
            self._scored_epoch = epoch
        elif self.monitor in trainer.callback_metrics:
            self._scored_epoch = epoch
            score, best = float(trainer.callback_metrics[self.monitor]), self.best_model_score
            if score == score and (best is None or (score > best if self.mode == "max" else score < best)):
                self.best_model_score, self.best_step, self.best_epoch = score, trainer.global_step, epoch
                self._new_best = True

    def _refuse_unknown_monitor(self, trainer: pl.Trainer) -> None:
        # A run may have no validation, or none yet. A metric that was logged as nan is known, but has no score.
        assert self.monitor is not None
        logged = sorted(trainer.callback_metrics)
        waits = not self._validated and (trainer.enable_validation or self.monitor.startswith("val/"))
        if self.monitor in logged or waits:
            return
        raise UserError(
            f"monitor '{self.monitor}' is never logged{nearest(self.monitor, logged)}; logged are: {', '.join(logged)}"
        )


def run_checkpoint(trainer: pl.Trainer) -> RunCheckpoint | None:
    """Returns the callback that decides when to write checkpoints; None if none are written."""
    if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]  (set late)
        return None
    return next((each for each in trainer.callbacks if isinstance(each, RunCheckpoint)), None)  # pyright: ignore[reportAttributeAccessIssue]


def _epochs_processed(trainer: pl.Trainer) -> int:
    """Returns the number of epochs whose batches are all trained on; validation still comes before the epoch counts."""
    return int(trainer.fit_loop.epoch_progress.current.processed)  # pyright: ignore[reportAttributeAccessIssue]
