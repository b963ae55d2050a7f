"""Predictions on disk: one Parquet file per process, whole or not there."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import Tensor


class PredictionWriter(BasePredictionWriter):
    """Writes what ``predict_step`` returns as rows of ``part-<rank>.parquet``.

    A prediction is a mapping of columns: lists and tensors of length B become plain columns, tensors [B, K] columns of
    lists. With ``label_names`` a column ``label_name`` stands beside ``label``. The files get their names when all rows
    are written; those of an earlier prediction stay until then.

    Args:
        folder: where the files go.
        label_names: names of the classes, in the order of their numbers.
    """

    def __init__(self, folder: str | Path, label_names: list[str] | None = None) -> None:
        super().__init__(write_interval="batch")
        self.folder, self.label_names = Path(folder), label_names
        self.rows = 0
        self._writer: pq.ParquetWriter | None = None

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
        table = pa.table({name: _column(value) for name, value in prediction.items()})
        if self.label_names and "label" in prediction:
            names = [self.label_names[label] for label in prediction["label"].tolist()]
            table = table.append_column("label_name", pa.array(names))
        if self._writer is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._temporary(trainer), table.schema)
        self._writer.write_table(table)
        self.rows += table.num_rows

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Closes the file and gives it its name; files of ranks that no longer exist go."""
        own = self.folder / f"part-{trainer.global_rank:05d}.parquet"
        if self._writer is not None:
            self._writer.close()
            self._writer = None
            self._temporary(trainer).replace(own)
        else:
            own.unlink(missing_ok=True)
        if trainer.is_global_zero:
            for path in self.folder.glob("part-*.parquet"):
                if int(path.stem.removeprefix("part-")) >= trainer.world_size:
                    path.unlink()

    def _temporary(self, trainer: pl.Trainer) -> Path:
        return self.folder / f".part-{trainer.global_rank:05d}.tmp"


def _column(value: Any) -> pa.Array:
    if not isinstance(value, Tensor):
        return pa.array(value)
    value = value.detach().cpu()
    if value.dtype == torch.bfloat16:  # NumPy has no such type
        value = value.float()
    values = value.numpy()
    if values.ndim == 1:
        return pa.array(values)
    flat = pa.array(values.reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values[0].size if len(values) else values.shape[-1])
