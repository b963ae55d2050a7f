"""Writes predictions: one Parquet file per process, which appears when it is complete."""

import os
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow.parquet as pq
import pytorch_lightning as pl
from pytorch_lightning.callbacks import BasePredictionWriter

from plcourse.errors import RunFailed, UserError
from plcourse.files import hold, publish, write_json
from plcourse.processes.collectives import gather_objects
from plcourse.runs.columns import to_table
from plcourse.training.callbacks import samples_in, samples_of

MANIFEST = "_manifest.json"


class PredictionWriter(BasePredictionWriter):
    """Writes the results of ``predict_step`` as rows of ``part-<rank>.parquet``.

    A prediction is a mapping of columns; see `plcourse.runs.columns`. The files get their names when all rows are
    written, and those of an earlier prediction stay until then. ``_manifest.json`` describes them.

    Args:
        folder: the folder of the files.
        label_names: names of the classes in the order of their numbers. None asks the data module at the first batch,
            because it may learn them from the checkpoint.
        facts: further fields of the manifest, such as the source of the inputs.

    Attributes:
        rows: rows written; after the prediction, those of all processes.
        given: the number of samples, None where it is unknown.
        seen: the number of predicted samples, None where it is unknown.
    """

    def __init__(
        self,
        folder: str | Path,
        label_names: list[str] | None = None,
        facts: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        super().__init__(write_interval="batch")
        self.folder, self.label_names, self.facts = Path(folder), label_names, facts
        self.rows = 0
        self.given: int | None = None
        self.seen: int | None = None
        self._batches: Counter[int] = Counter()
        self._writer: pq.ParquetWriter | None = None
        self._lock: int | None = None
        self._begun = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Locks the folder before any callback changes it.

        Raises:
            UserError: another process is writing predictions there; on every rank.
            RunFailed: the folder cannot be made; on every rank.
        """
        found: Any = None
        if trainer.is_global_zero:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock = hold(self.folder, "predictions")
            except OSError as error:
                found = RunFailed(f"cannot make '{self.folder}': {error.strerror}")
            except UserError as error:
                found = error
        found = gather_objects(found)[0]
        if found is not None:
            raise found

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Unlocks the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Removes the incomplete file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(OSError):  # a full disk also refuses the last bytes
                writer.close()
        if self._begun:  # the file of another process must stay
            self._temporary(trainer).unlink(missing_ok=True)
        self.teardown(trainer, pl_module, "predict")

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Any,
        batch_indices: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Appends the rows of one batch."""
        names = self.label_names or getattr(getattr(trainer, "datamodule", None), "label_names", None)
        table = to_table(prediction, names)
        if self._writer is None:
            self.folder.mkdir(parents=True, exist_ok=True)  # for a rank on another machine
            self._begun = True
            self._writer = pq.ParquetWriter(self._temporary(trainer), table.schema)
        self._writer.write_table(table)
        self.rows += table.num_rows
        self._batches[dataloader_idx] += 1

    @property
    def said(self) -> str:
        """A summary such as ``359 of 359 samples``, or ``6 rows of 3 of 3 samples`` if a sample has two rows."""
        if self.given is None or self.seen is None:
            return f"{self.rows:,} rows"
        several = "" if self.rows == self.seen else f"{self.rows:,} rows of "
        return f"{several}{self.seen:,} of {self.given:,} samples"

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Closes the file, gives it its name, and removes the files of ranks that no longer exist."""
        own = self.folder / f"part-{trainer.global_rank:05d}.parquet"
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            publish(self._temporary(trainer), own)
        else:
            own.unlink(missing_ok=True)
        loaders = trainer.predict_dataloaders
        self.given = samples_of(loaders)
        counted = gather_objects((self.rows, samples_in(loaders, self._batches)))
        self.rows = sum(rows for rows, _ in counted)
        self.seen = None if any(seen is None for _, seen in counted) else sum(seen for _, seen in counted)
        if trainer.is_global_zero:
            current = {f"part-{rank:05d}.parquet" for rank in range(trainer.world_size)}
            for path in self.folder.glob("part-*"):  # also the shards of a loop that has written here
                if path.name not in current:
                    path.unlink()
            found = {"given": self.given, "seen": self.seen, "rows": self.rows}
            write_json(
                self.folder / MANIFEST, {"schema": 1, "complete": True, "format": "parquet", **found, **self.facts}
            )

    def _temporary(self, trainer: pl.Trainer) -> Path:
        return self.folder / f".part-{trainer.global_rank:05d}.tmp"
