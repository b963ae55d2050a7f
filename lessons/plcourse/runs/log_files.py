"""Lets Lightning's loggers that write files continue their files when a run resumes.

By default a new `CSVLogger` deletes the table in its folder, and without a ``version`` both it and `TensorBoardLogger`
start another folder. Here a resumed run continues in its folder, without rows that are newer than its checkpoint, and
rows are written to disk before each checkpoint.
"""

import csv
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from plcourse.files import write_text
from plcourse.runs.run import Run


def on_disk(loggers: Sequence[Logger]) -> list[CSVLogger | TensorBoardLogger]:
    """Returns the loggers that write files."""
    return [logger for logger in loggers if isinstance(logger, CSVLogger | TensorBoardLogger)]


def versions(loggers: Sequence[Logger]) -> list[Any]:
    """Returns the versions of the loggers that write files, for ``run.json``."""
    return [logger.version for logger in on_disk(loggers)]


def flush(loggers: Sequence[Logger]) -> None:
    """Writes buffered rows, so that a kill loses none from before the checkpoint."""
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            logger.save()


def resume(loggers: Sequence[Logger], run: Run, step: int) -> None:
    """Prepares loggers to continue their files; for the first process only.

    Args:
        loggers: new loggers, which have logged nothing yet.
        run: the run.
        step: the first step that will be logged again.
    """
    known = list(run.record.get("logger_versions") or [])
    for logger in on_disk(loggers):
        version = known.pop(0) if known else None
        if logger._version is None:
            logger._version = version
        if isinstance(logger, TensorBoardLogger):
            logger._kwargs.setdefault("purge_step", step)
        elif logger._version is not None:
            _keep_rows(logger, step)


def _keep_rows(logger: CSVLogger, step: int) -> None:
    table = Path(logger.log_dir, "metrics.csv")
    if not table.is_file():
        return
    kept = table.with_name("metrics.before.csv")  # so that the writer does not delete it
    table.replace(kept)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*exists and is not empty")
        writer = logger.experiment
    with kept.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = [row for row in reader if (row.get("step") or "").isdecimal() and int(row["step"]) < step]
        names = list(reader.fieldnames or [])
    if rows:
        text = io.StringIO(newline="")
        out = csv.DictWriter(text, names, lineterminator="\r\n")
        out.writeheader()
        out.writerows(rows)
        write_text(table, text.getvalue())
        writer.metrics_keys = names
    kept.unlink()
