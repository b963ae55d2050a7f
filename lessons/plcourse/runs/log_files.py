"""Lightning's loggers that write files, kept whole when a run resumes: the rows so far stay, and are added to.

A new `CSVLogger` deletes the table in its folder, and without a ``version`` it begins another folder; so does
`TensorBoardLogger`. Here a resumed run goes on in the folder that it began in, without what is newer than its
checkpoint; and rows are on disk when a checkpoint is.
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
    """The loggers that write files, in their order."""
    return [logger for logger in loggers if isinstance(logger, CSVLogger | TensorBoardLogger)]


def versions(loggers: Sequence[Logger]) -> list[Any]:
    """Their versions, for ``run.json``."""
    return [logger.version for logger in on_disk(loggers)]


def flush(loggers: Sequence[Logger]) -> None:
    """Writes the rows that tables hold back, so that a kill costs none that a checkpoint counts on."""
    for logger in loggers:
        if isinstance(logger, CSVLogger):
            logger.save()


def resume(loggers: Sequence[Logger], run: Run, step: int) -> None:
    """Lets loggers go on where they were; for the first process only.

    Args:
        loggers: as the config makes them, which have logged nothing yet.
        run: the run.
        step: the first step that will be logged anew.
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
    kept = table.with_name("metrics.before.csv")  # out of reach of the writer, which deletes what it finds
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
