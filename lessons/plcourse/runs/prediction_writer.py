"""Writes predictions as Arrow tables: one Parquet file per process, which appears when it is complete."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

import pyarrow as pa
import pyarrow.parquet as pq
import pytorch_lightning as pl
from pytorch_lightning.callbacks import BasePredictionWriter

from plcourse.errors import RunFailed, UserError, nearest
from plcourse.files import LOCK, hold, release, sync, write_json
from plcourse.processes.collectives import gather_objects
from plcourse.runs.prediction_columns import Origin, to_array, to_columns
from plcourse.runs.prediction_files import MANIFEST, PARTIAL, finish
from plcourse.training.callbacks import samples_in, samples_of


def to_table(
    prediction: object,
    label_names: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    origin: Origin | None = None,
) -> pa.Table:
    """Returns the rows of one prediction.

    Tensors and arrays [B] become plain columns, tensors and arrays [B, K] columns of fixed-size lists, and lists of
    strings string columns. Arrow arrays are used as they are. Values are copied as little as possible.

    Args:
        prediction: the result of ``predict_step``, a mapping of columns or anything else that
            `plcourse.runs.prediction_columns.to_columns` takes; ``label`` contains class numbers.
        label_names: names of the classes, which add a column ``label_name``.
        columns: the columns to keep, in this order; None keeps all.
        origin: adds columns that tell the samples apart, unless the prediction has columns of these names.

    Raises:
        UserError: the prediction lacks a column, or is no table.
    """
    given = to_columns(prediction)
    more = {} if origin is None else origin.columns(max(map(len, given.values()), default=0))
    found = {name: to_array(value) for name, value in {**more, **given}.items()}
    if "label" in found and label_names:
        # a dictionary of a few names takes less space than a string per row
        names = pa.array(list(label_names), pa.string())
        found["label_name"] = pa.DictionaryArray.from_arrays(found["label"].cast(pa.int32()), names)
    if columns is not None:
        for name in columns:
            if name not in found:
                raise UserError(f"no column '{name}'; the columns are {', '.join(found)}{nearest(name, found)}")
        found = {name: found[name] for name in columns}
    return pa.table(found)


class PredictionWriter(BasePredictionWriter):
    """Writes the results of ``predict_step`` as rows of ``part-<rank>.parquet``.

    A prediction is a mapping of columns; see `to_table`. The files are written to ``_partial/``. When all ranks have
    finished, rank 0 replaces those of an earlier prediction (`plcourse.runs.prediction_files`). ``_manifest.json``
    describes them.

    Args:
        folder: the folder of the files.
        label_names: names of the classes in the order of their numbers. None asks the data module at the first batch,
            because it may learn them from the checkpoint.
        facts: further fields of the manifest, such as the source of the inputs.
    """

    def __init__(
        self,
        folder: str | Path,
        label_names: list[str] | None = None,
        facts: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        super().__init__(write_interval="batch")
        self.folder, self.label_names, self.facts = Path(folder), label_names, facts
        self.rows = 0  # written by this process; after the prediction, by all processes
        self.given: int | None = None  # samples, None if their number is unknown
        self.seen: int | None = None  # predicted samples, None if their number is unknown
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
        problem: UserError | None = None
        if trainer.is_global_zero:
            try:
                self._partial.mkdir(parents=True, exist_ok=True)
                self._lock = hold(self.folder, "predictions")
                finish(self.folder)  # of a prediction that was killed at its end
                for path in self._partial.iterdir():
                    path.unlink()
            except OSError as error:
                problem = RunFailed(f"cannot make '{self.folder}': {error.strerror}")
            except UserError as error:
                problem = error
        if problem := gather_objects(problem)[0]:
            raise problem

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Unlocks the folder."""
        if self._lock is not None:
            release(self._lock, self.folder / LOCK)
            self._lock = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Removes the incomplete file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(OSError):  # a full disk also refuses the last bytes
                writer.close()
        if self._begun:  # the file of another process must stay
            (self._partial / _name(trainer.global_rank)).unlink(missing_ok=True)
            with suppress(OSError):  # another rank has a file there
                self._partial.rmdir()
        self.teardown(trainer, pl_module, "predict")

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: object,
        batch_indices: Sequence[int] | None,
        batch: object,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Appends the rows of one batch."""
        if prediction is None:  # the user's code writes it
            return
        names = self.label_names or getattr(getattr(trainer, "datamodule", None), "label_names", None)
        loader = dataloader_idx if trainer.predict_loop.num_dataloaders > 1 else None
        table = to_table(prediction, names, origin=Origin(batch, batch_indices or (), loader))
        if self._writer is None:
            self._partial.mkdir(parents=True, exist_ok=True)  # for a rank on another machine
            self._begun = True
            self._writer = pq.ParquetWriter(self._partial / _name(trainer.global_rank), table.schema)
        self._writer.write_table(_as_before(table, self._writer.schema, batch_idx))
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
        """Completes this rank's file; rank 0 then puts all files in the place of the earlier prediction."""
        own = _name(trainer.global_rank)
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            sync(self._partial / own)
        loaders = trainer.predict_dataloaders
        self.given = samples_of(loaders)
        counted = gather_objects((self.rows, samples_in(loaders, self._batches), own if self._begun else None))
        self.rows = sum(rows for rows, _, _ in counted)
        seen = [samples for _, samples, _ in counted if samples is not None]
        self.seen = sum(seen) if len(seen) == len(counted) else None
        if trainer.is_global_zero:
            sync(self._partial)
            shards = [{"file": name} for _, _, name in counted if name is not None]
            counts = {"given": self.given, "seen": self.seen, "rows": self.rows}
            fixed = {"schema": 1, "complete": True, "format": "parquet"}
            write_json(self._partial / MANIFEST, {**fixed, **counts, **self.facts, "shards": shards})
            finish(self.folder)
            self._partial.rmdir()
        gather_objects(None)
        if not self._begun:
            (self.folder / own).unlink(missing_ok=True)  # of an earlier prediction on another machine
        elif (self._partial / own).is_file():  # rank 0 is on another machine and did not see it
            (self._partial / own).replace(self.folder / own)
            self._partial.rmdir()

    @property
    def _partial(self) -> Path:
        return self.folder / PARTIAL


def _name(rank: int) -> str:
    return f"part-{rank:05d}.parquet"


def _as_before(table: pa.Table, schema: pa.Schema, batch_idx: int) -> pa.Table:
    """Returns the rows of a batch with the types of the first one; a UserError if they are others."""
    try:
        return table if table.schema.equals(schema) else table.cast(schema)
    except (ValueError, pa.ArrowException) as error:
        before, here = (", ".join(f"{each.name}: {each.type}" for each in known) for known in (schema, table.schema))
        raise UserError(
            f"predict_step returned other columns for batch {batch_idx} ({here}) than before ({before}): return the "
            "same columns for every batch and loader"
        ) from error
