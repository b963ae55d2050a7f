"""Checkpoints that survive: written whole or not at all, verified when read, and loaded without running code."""

import hashlib
import io
import os
import pickle
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, cast

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins import CheckpointIO
from pytorch_lightning.callbacks import Checkpoint

from plcourse.errors import RunFailed, UserError, first_line, nearest
from plcourse.files import staged
from plcourse.processes.collectives import from_rank_0, is_distributed, maximum

BEST, LAST, PREVIOUS = "best.ckpt", "last.ckpt", "previous.ckpt"
MIN_SECONDS = 1.0  # between two checkpoints that are due for no other reason than the end of a short epoch


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint under a temporary name in the same folder, syncs it, and renames it over the old one.

    Lightning stages in the system's temporary folder, so that a full disk destroys the old checkpoint when the two
    are on different file systems (Lightning issue 21253). Beside ``x.ckpt`` lies ``x.ckpt.sha256``; a file that no
    longer matches is refused, and so is anything that is not made of tensors and plain types.
    """

    def __init__(self) -> None:
        self._proved = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes ``checkpoint`` to ``path``; on failure the old file is as it was.

        Raises:
            RunFailed: the file cannot be written; the line names the path and the reason.
        """
        path = Path(path)
        with _one_line_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with _replacing(path) as temporary:
                with temporary.open("wb") as file:  # a name would become part of the content
                    torch.save(checkpoint, file)
                if not self._proved:
                    _prove(temporary)
                    self._proved = True

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint of Lightning, which calls this on every rank; ``weights_only`` is always on.

        A rank on a node that does not have the file gets it from rank 0.

        Raises:
            UserError: the file is missing, damaged, or would need code of its own to load.
        """
        path = Path(path)
        here = path.is_file()
        if not is_distributed() or maximum([not here]) == [0]:
            return load(path, map_location)
        content = from_rank_0(path.read_bytes() if here else None)
        return load(path, map_location) if here or content is None else _read(path, io.BytesIO(content), map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a checkpoint and its checksum."""
        path = Path(path)
        path.unlink(missing_ok=True)
        _checksum_path(path).unlink(missing_ok=True)


def load(path: Path, map_location: Any = None) -> dict[str, Any]:
    """Reads a checkpoint after verifying its checksum, if there is one beside it.

    Args:
        path: the file.
        map_location: as in `torch.load`; the CPU by default.

    Raises:
        UserError: the file is missing, damaged, or holds more than tensors and plain types.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}{_intact_beside(path)}")
    if not verify(path):
        raise UserError(
            f"{path} is damaged: its SHA-256 is not the one in {_checksum_path(path).name}{_intact_beside(path)}"
        )
    return _read(path, path, map_location)


def _read(path: Path, file: Path | io.BytesIO, map_location: Any) -> dict[str, Any]:
    """The checkpoint in ``file``, which errors call ``path``."""
    try:
        with warnings.catch_warnings():
            # torch warns of pickles of another protocol and of TorchScript archives, which it then refuses
            warnings.filterwarnings("ignore", ".*(Detected pickle protocol|TorchScript archive)", UserWarning)
            checkpoint = torch.load(file, map_location=map_location or "cpu", weights_only=True)
    except Exception as error:
        foreign = "weights_only" in str(error) or "Unsupported" in str(error)
        why = "holds Python objects that would run code when loaded" if foreign else "is not a complete checkpoint file"
        raise UserError(f"{path} {why}; nothing of it was executed{_intact_beside(path)}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path} is no Lightning checkpoint: it has no 'state_dict'{_intact_beside(path)}")
    return cast(dict[str, Any], checkpoint)


def verify(path: Path) -> bool:
    """Whether ``path`` is the file its checksum was made from; a file without checksum is taken as it is."""
    checksum = _checksum_path(path)
    if not checksum.is_file():
        return True
    return _sha256(path) in checksum.read_text(errors="replace").split()


def link(source: Path, target: Path) -> None:
    """Makes ``target`` the same file as ``source``, atomically and with its checksum, without copying where it can.

    Both names stay good: checkpoints are replaced, never written into.
    """
    with _one_line_errors(target), _replacing(target, _digest(source)) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # a file system without hard links
            temporary.write_bytes(source.read_bytes())


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    """Turns every error that can occur while a checkpoint is written into one line."""
    try:
        yield
    except (OSError, RuntimeError, pickle.PicklingError, AttributeError, TypeError) as error:
        # torch's writer reports a full disk as a RuntimeError; what cannot be pickled is any of the last three
        reason = getattr(error, "strerror", None) or first_line(error)
        raise RunFailed(f"cannot write the checkpoint {path}: {reason}; what was there before is intact") from error


def _prove(path: Path) -> None:
    """Reads a checkpoint back as it will be read: a class of its own in it would only be noticed on resume.

    Raises:
        RuntimeError: it holds more than tensors and plain types.
    """
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        kind = match.group(1) if (match := re.search(r"GLOBAL (\S+)", str(error))) else "an object of a class"
        raise RuntimeError(
            f"it holds {kind}, which no safe load accepts; hyper-parameters and states must be plain types"
        ) from error


def _digest(path: Path) -> str:
    """The SHA-256 of a file: the one beside it, unless a kill left two there."""
    checksum = _checksum_path(path)
    known = checksum.read_text().split() if checksum.is_file() else []
    return known[0] if len(known) == 1 else _sha256(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _replacing(path: Path, digest: str | None = None) -> Iterator[Path]:
    """Replaces a checkpoint and its checksum by what the block writes to the temporary path that it is given.

    Args:
        path: the checkpoint.
        digest: the SHA-256 of the new content; None computes it.
    """
    # Before and after the rename the checksum file must fit what is there, so meanwhile it holds both; and it comes
    # first, so that a disk that fills in between leaves no checkpoint without one.
    with staged(path) as temporary:
        yield temporary
        digest = digest or _sha256(temporary)
        old = [_digest(path)] if path.is_file() else []
        _write_checksum(path, [*old, digest])
    if old:
        _write_checksum(path, [digest])


def _write_checksum(path: Path, digests: list[str]) -> None:
    with staged(_checksum_path(path), sync_folder=False) as temporary:
        temporary.write_text("\n".join(digests) + "\n")


def _checksum_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _intact_beside(path: Path) -> str:
    others = [path.with_name(name) for name in (LAST, PREVIOUS, BEST) if name != path.name]
    intact = next(
        (other for other in others if other.is_file() and _checksum_path(other).is_file() and verify(other)), None
    )
    return f"; {intact} is intact: --ckpt_path {intact}" if intact else ""


class RunCheckpoint(Checkpoint):
    """Keeps ``best.ckpt``, ``last.ckpt`` and the one before it, ``previous.ckpt``, each complete and resumable.

    Checkpoints are written at boundaries only (see `plcourse.training.safe_points`), so that each resumes
    bit-exactly. The best one is the state at the first boundary after the validation that scored best.

    Args:
        monitor: the metric that decides about the best, such as ``val/accuracy``; None keeps the latest as best.
        mode: whether a larger (``max``) or a smaller (``min``) value is better.
        every_n_epochs: epochs between two checkpoints, 1 or more.
        every_n_train_steps: optimizer steps between two checkpoints inside an epoch; None for none.
        train_time_interval: time after which a checkpoint is written inside a long epoch; None for never.
        dirpath: the folder; a run sets it to its own ``checkpoints/``.

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
        self.best_step = 0
        self.best_epoch = 0
        self._new_best = False
        self._resumed = False
        self._last_is_good = False
        self._scored_epoch = -1
        self._validated = False
        self._written = False

    @property
    def state_key(self) -> str:
        """One state whatever the arguments, so that a changed interval does not lose the best score."""
        return "RunCheckpoint"

    @property
    def best_model_path(self) -> str:
        """The best checkpoint, or an empty string before there is one.

        On another node than rank 0's the file itself may not be there.
        """
        written = self._written or (self._resumed and self.best_model_score is not None)
        return str(self._file(BEST)) if self.dirpath and (self._file(BEST).is_file() or written) else ""

    @property
    def last_model_path(self) -> str:
        """The last checkpoint, or an empty string before there is one."""
        return str(self._file(LAST)) if self.dirpath and self._file(LAST).is_file() else ""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Falls back to a folder below the trainer's root when no run has set one."""
        if self.dirpath is None:
            self.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Clears up after a kill: half-written files, and a best checkpoint that was not linked any more."""
        if not trainer.is_global_zero:
            return
        for left in self._file(LAST).parent.glob(".*.tmp"):
            left.unlink(missing_ok=True)
        start = Path(getattr(trainer, "ckpt_path", None) or "")
        was_best = self._resumed and trainer.global_step == self.best_step
        if was_best and start.name != BEST and start.parent == self._file(LAST).parent:
            link(start, self._file(BEST))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes whether this validation inside a fit was the best so far."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._validated = True
            self._score(trainer, epochs_processed(trainer))

    def is_due(self, step: int) -> bool:
        """Whether to write between two batches, after ``step`` optimizer steps; alike on all ranks."""
        return self._new_best or (self.every_n_train_steps is not None and step % self.every_n_train_steps == 0)

    def is_late(self, seconds: float) -> bool:
        """Whether the last checkpoint is so many seconds old that another is due."""
        return self.train_time_interval is not None and seconds >= self.train_time_interval.total_seconds()

    def is_due_after_epoch(self, trainer: pl.Trainer, seconds: float) -> bool:
        """Whether to write after an epoch, ``seconds`` after the last checkpoint.

        It is when the epoch was the best or is the last, and, where epochs are that short, not more than once a second.
        """
        epochs = epochs_processed(trainer)
        if self._scored_epoch < epochs - 1:
            self._score(trainer, epochs - 1)
        if self.monitor is not None and self.best_model_score is None:
            self._complain(trainer)
        ends = epochs == trainer.max_epochs or 0 <= trainer.max_steps <= trainer.global_step
        if self._new_best or trainer.should_stop or ends:
            return True
        return epochs % self.every_n_epochs == 0 and seconds >= MIN_SECONDS

    def save(self, trainer: pl.Trainer) -> None:
        """Writes last.ckpt, and best.ckpt where it is due; called on every rank, at a boundary."""
        last, best = self._file(LAST), self._file(BEST)
        is_best, self._new_best = self._new_best, False
        if trainer.is_global_zero and last.is_file() and (self._last_is_good or verify(last)):
            link(last, self._file(PREVIOUS))
        trainer.save_checkpoint(last)
        self._last_is_good = self._written = True
        if trainer.is_global_zero and (is_best or self.best_model_score is None):
            link(last, best)

    def state_dict(self) -> dict[str, Any]:
        """The best score, when it was reached and what it is a score of."""
        what = {"monitor": self.monitor, "mode": self.mode}
        return {**what, "best": self.best_model_score, "best_step": self.best_step, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the best score back, unless it is one of another metric than is monitored now."""
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

    def _complain(self, trainer: pl.Trainer) -> None:
        # Epochs without validation, and runs that switch it off, have nothing to monitor; a score that is not a number
        # stays unscored.
        assert self.monitor is not None
        logged = sorted(trainer.callback_metrics)
        waits = not self._validated and (trainer.enable_validation or self.monitor.startswith("val/"))
        if self.monitor in logged or waits:
            return
        raise UserError(
            f"monitor '{self.monitor}' is never logged{nearest(self.monitor, logged)}; logged are: {', '.join(logged)}"
        )


def epochs_processed(trainer: pl.Trainer) -> int:
    """Epochs whose batches are all trained on; in the validation at the end of an epoch still without that epoch."""
    return int(trainer.fit_loop.epoch_progress.current.processed)  # pyright: ignore[reportAttributeAccessIssue]


def run_checkpoint(trainer: pl.Trainer) -> RunCheckpoint | None:
    """The callback that decides when to write checkpoints, None when there are none to be written."""
    if trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]  (set late)
        return None
    return next((callback for callback in trainer.callbacks if isinstance(callback, RunCheckpoint)), None)  # pyright: ignore[reportAttributeAccessIssue]
