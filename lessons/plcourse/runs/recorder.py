"""Records what a run measures: metrics.csv, the suite's part of a checkpoint, the best score, and evaluations."""

import csv
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any, TextIO

import numpy as np
import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger, Logger
from pytorch_lightning.utilities.model_helpers import is_overridden

from plcourse.console import say
from plcourse.errors import RunFailed, UserError
from plcourse.files import link_or_copy, sync, write_json
from plcourse.runs import log_files
from plcourse.runs.changes import Change
from plcourse.runs.environment import package_version
from plcourse.runs.record import read_record
from plcourse.runs.references import relative_to_run
from plcourse.runs.run import Run
from plcourse.training.checkpoint import BEST, LAST, PREVIOUS
from plcourse.training.variant import AS_TRAINED, Variant

_HEADER = "step,epoch,metric,value\n"
_NEW_INPUTS = ("predict_path", "predict_paths", "seeds")


def shortest(value: float) -> float:
    """Returns a single-precision value in its shortest form: 0.981 instead of 0.9810000062; other values unchanged."""
    with np.errstate(over="ignore"):
        single = np.float32(value)
    return float(str(single)) if float(single) == float(value) else float(value)


class TidyLogger(Logger):
    """Writes ``metrics.csv``: one row per number, columns step, epoch, metric, value.

    A step is a training batch, counted from 0; values have full precision. Rows are only appended, so that a new metric
    needs no rewriting and a kill loses no flushed row.

    Args:
        path: the file.

    Attributes:
        active: whether metrics are written; False after the fit, because evaluations have other files.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self.active = True
        self._file: TextIO | None = None

    @property
    def name(self) -> str:
        """The name of the file without its ending, a folder in which Lightning's `ModelCheckpoint` may write."""
        return self.path.stem

    @property
    def version(self) -> str:
        """Empty: a run has one table."""
        return ""

    @property
    def save_dir(self) -> str:
        """The folder of the file."""
        return str(self.path.parent)

    @property
    def log_dir(self) -> str:
        """The folder of the file."""
        return self.save_dir

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Appends one row per metric, while the logger is active."""
        if not self.active:
            return
        epoch = int(metrics.get("epoch", 0))
        with self._one_line_errors():
            writer = csv.writer(self._open(), lineterminator="\n")
            for name, value in metrics.items():
                if name != "epoch":
                    writer.writerow((step or 0, epoch, name, shortest(value)))

    def log_hyperparams(self, params: object, *args: object, **kwargs: object) -> None:
        """Does nothing: config.yaml contains them."""

    @rank_zero_only
    def save(self) -> None:
        """Flushes the appended rows."""
        if self._file is not None:
            with self._one_line_errors():
                self._file.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Flushes and closes the file."""
        file, self._file = self._file, None
        if file is not None:
            with self._one_line_errors():
                file.close()

    def size(self) -> int:
        """Waits until all rows are on disk and returns the size of the file in bytes."""
        with self._one_line_errors():
            file = self._open()
            file.flush()
            os.fsync(file.fileno())
            return self.path.stat().st_size

    def cut(self, size: int) -> None:
        """Drops the rows after the first ``size`` bytes, which are newer than the checkpoint of a resumed run.

        After a power failure the file can be shorter than that. Then it ends with its last whole row, and a line says
        so.
        """
        self.finalize("")
        if not self.path.is_file():
            return
        self._check_place()
        with self._one_line_errors(), self.path.open("r+b") as file:
            kept = file.read(size)
            whole = kept.rfind(b"\n") + 1
            file.truncate(whole)
        if whole < size:
            say(f"{self.path} lacks {size - whole:,} of the {size:,} bytes that were there at the last checkpoint")

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RunFailed(f"cannot write {self.path}: {error.strerror}") from error

    def _check_place(self) -> None:
        # a run from another source could redirect the rows to any file
        if self.path.is_symlink():
            raise RunFailed(f"{self.path} is a link, but a run writes only into its own files; remove the link")

    def _open(self) -> TextIO:
        if self._file is None:
            self._check_place()
            self._file = self.path.open("a", encoding="utf-8", newline="")
            if self._file.tell() == 0:
                self._file.write(_HEADER)
        return self._file


class RunRecorder(Callback):
    """Keeps the record of a run up to date while it trains.

    Args:
        run: the run.
        logger: its table of metrics.
        change: the settings that a resumed run changes, recorded before its first step.

    Attributes:
        began: whether a training has begun.
    """

    def __init__(self, run: Run, logger: TidyLogger, change: Change | None = None) -> None:
        self.run, self.logger, self.change = run, logger, change
        self.began = False
        self._best: float | None = None
        self._started = time.monotonic()
        self._earlier = 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Sends the checkpoints into the run's folder."""
        checkpoint = getattr(trainer, "run_checkpoint", None)
        if checkpoint is not None:
            checkpoint.dirpath = str(self.run.path / "checkpoints")

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Stores the size of the table, so that a resumed run continues after the same row."""
        if trainer.is_global_zero:  # it writes the file, and other machines may not see the folder
            for logger in trainer.loggers:
                if isinstance(logger, CSVLogger):
                    logger.save()  # a kill must not lose rows from before the checkpoint
                    if (table := Path(logger.log_dir, "metrics.csv")).is_file():
                        sync(table)
            checkpoint["plcourse"] = {
                "run": self.run.record["created"],
                "metrics_size": self.logger.size(),
                "training_seconds": self._seconds(),
            }

    def refuse_foreign(self, checkpoint: Mapping[str, Any], path: Path) -> None:
        """Raises a UserError for a checkpoint of another run under a name that only this run's own may have."""
        writer, folder = checkpoint.get("plcourse", {}).get("run"), self.run.path / "checkpoints"
        if writer is None or path.name not in (BEST, LAST, PREVIOUS) or path.resolve().parent != folder.resolve():
            return
        seen = (self.run.path / "run.json").is_file()  # by this node
        if seen and writer != self.run.record["created"]:
            raise UserError(
                f"{path} was written by another run, which was made at {writer}; put back the file of this run, or "
                "give the other one where it was: --ckpt_path PATH"
            )

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Cuts the table to the checkpoint when this run resumes; another run's checkpoint does not affect it."""
        known = checkpoint.get("plcourse", {})
        if trainer.state.fn == "fit" and trainer.is_global_zero and known.get("run") == self.run.record["created"]:
            self.logger.cut(known["metrics_size"])
            self._earlier = known["training_seconds"]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Flushes the table, so that others can read it during the training."""
        self.logger.save()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock, and records the numbers of samples and the verbs that can follow."""
        self._started = time.monotonic()
        self.began = True
        if not trainer.is_global_zero:
            return
        if self.change is not None:
            self.change.record(self.run, trainer.global_step, trainer.current_epoch)
            say(f"from step {trainer.global_step} on: {self.change}")
        found = {
            "logger_versions": [logger.version for logger in log_files.on_disk(trainer.loggers)],
            "data": getattr(getattr(trainer, "datamodule", None), "sizes", None),
        }
        known = {key: value for key, value in found.items() if value}
        self.run.update(**known, verbs=_possible_verbs(trainer, pl_module))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Records the best score so far."""
        self._record_best(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Records the best score, and the time of training and validation over all resumptions."""
        self._record_best(trainer)
        if trainer.is_global_zero:
            self.run.update(training_seconds=round(self._seconds(), 3), steps=trainer.global_step)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Closes the table."""
        self.logger.finalize("")
        self.logger.active = False

    def _seconds(self) -> float:
        return self._earlier + time.monotonic() - self._started

    def _record_best(self, trainer: pl.Trainer) -> None:
        checkpoint = getattr(trainer, "run_checkpoint", None)
        if checkpoint is None or not trainer.is_global_zero or checkpoint.best_model_score in (None, self._best):
            return
        self._best = checkpoint.best_model_score
        best = {"metric": checkpoint.monitor, "value": self._best}
        self.run.update(best={**best, "step": checkpoint.best_step, "epoch": checkpoint.best_epoch})


def save_evaluation(
    run: Path,
    stage: str,
    metrics: dict[str, float],
    coverage: dict[str, int] | None,
    checkpoint: Path | None,
    processes: int,
    seconds: float,
    findings: Mapping[str, object] = MappingProxyType({}),
    variant: Variant = AS_TRAINED,
) -> dict[str, Any]:
    """Writes ``eval/<stage>[-<variant>].json`` and returns its contents; for the first rank only.

    Older results are kept as ``eval/<stage>-<n>.json``.

    Args:
        run: the run's folder.
        stage: val or test.
        metrics: the scores.
        coverage: the counts of `plcourse.training.callbacks.Coverage`.
        checkpoint: the file that was scored; None for untrained weights.
        processes: the number of processes.
        seconds: the duration of the evaluation.
        findings: further fields of the file.
        variant: how the evaluation differs from the run as it was trained.
    """
    report = {
        "stage": stage,
        "settings": dict(variant.settings),
        "metrics": {name: shortest(value) for name, value in metrics.items()},
        "coverage": coverage,
        "checkpoint": checkpoint and relative_to_run(checkpoint, run),
        "processes": processes,
        "best_step": _best_step(run),
        "seconds": round(seconds, 3),
        "trust": list(variant.trust),
        "plcourse": package_version("plcourse"),
        **findings,
    }
    path = run / "eval" / f"{variant.file_stem(stage)}.json"
    path.parent.mkdir(exist_ok=True)
    names = (path.with_name(f"{path.stem}-{number}.json") for number in count(1))
    older = next(name for name in names if not name.exists())
    try:
        if path.is_file():
            link_or_copy(path, older)  # a second name, so that a kill leaves the old or the new file
        write_json(path, report)
    except (OSError, RunFailed):  # such as a full disk: the older file stays
        older.unlink(missing_ok=True)
        raise
    return report


def _possible_verbs(trainer: pl.Trainer, module: pl.LightningModule) -> list[str]:
    """Returns which of test and predict can follow a fit, because the model has the step and the data have samples."""
    data: Any = getattr(trainer, "datamodule", None)
    if data is None:
        return []
    sizes = getattr(data, "sizes", None) or getattr(getattr(data, "splits", None), "sizes", None)
    has_test = not isinstance(sizes, dict) or sizes.get("n_test") != 0
    # the suite's data modules predict the test part if there are no new inputs
    new_inputs = [getattr(data, name) for name in _NEW_INPUTS if hasattr(data, name)]
    possible = {
        "test": has_test and is_overridden("test_step", module) and is_overridden("test_dataloader", data),
        "predict": (is_overridden("predict_step", module) or is_overridden("forward", module))
        and is_overridden("predict_dataloader", data)
        and (has_test or not new_inputs or any(new_inputs)),
    }
    return [verb for verb in possible if possible[verb]]


def _best_step(run: Path) -> int | None:
    """Returns the step of the run's current best checkpoint; further training may give another."""
    best = read_record(run / "run.json").get("best") if (run / "run.json").is_file() else None
    return best.get("step") if isinstance(best, dict) else None
