"""Lets Lightning's loggers that write files continue their files when a run resumes.

By default a new `CSVLogger` deletes the table in its folder, and without a ``version`` both it and `TensorBoardLogger`
start another folder. Here a resumed run continues in its folder, without rows that are newer than its checkpoint.
"""

import warnings
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger

from plcourse.files import write_text
from plcourse.runs.confinement import leaves_its_folder
from plcourse.runs.run import Run
from plcourse.training.checkpoint import load


def on_disk(loggers: Sequence[Logger]) -> list[CSVLogger | TensorBoardLogger]:
    """Returns the loggers that write files."""
    return [logger for logger in loggers if isinstance(logger, CSVLogger | TensorBoardLogger)]


def resume(loggers: Sequence[Logger], run: Run, checkpoint: Path | None) -> None:
    """Prepares new loggers to continue their files from a checkpoint, or from the beginning; for the first process."""
    if not (writing := on_disk(loggers)):
        return
    loops = load(checkpoint).get("loops", {}) if checkpoint is not None else {}
    step = int(loops.get("fit_loop", {}).get("epoch_loop.state_dict", {}).get("_batches_that_stepped", 0))
    # they become names of folders, and the record may be somebody else's
    versions = [each for each in run.record.get("logger_versions") or [] if not leaves_its_folder(str(each))]
    for logger, version in zip_longest(writing, versions[: len(writing)]):
        if logger._version is None:
            logger._version = version
        if isinstance(logger, TensorBoardLogger):
            logger._kwargs.setdefault("purge_step", step)
        elif logger._version is not None:
            _keep_rows(logger, step)


def _keep_rows(logger: CSVLogger, step: int) -> None:
    import pandas as pd  # here, because most runs need no table

    table = Path(logger.log_dir, "metrics.csv")
    if not table.is_file():
        return
    kept = table.with_name("metrics.before.csv")  # so that the writer does not delete it
    table.replace(kept)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*exists and is not empty")
        writer = logger.experiment
    if kept.stat().st_size:  # a kill can leave an empty file
        rows = pd.read_csv(kept, dtype=str, keep_default_na=False)
        rows = rows[[str(each).isdecimal() and int(each) < step for each in rows["step"]]]
        if len(rows):
            write_text(table, rows.to_csv(index=False, lineterminator="\r\n"))
            writer.metrics_keys = list(rows.columns)
    kept.unlink()
