"""Lesson 16 on one page: a prediction loop that keeps no results in memory and survives a kill.

    python -m plcourse.evaluation.minimal FOLDER        # stop it with Ctrl-C or kill -9, then run it again

`trainer.predict` keeps all results in memory, and they are lost if the process dies. Here each batch is written to a
file (a shard) as soon as it is computed. A shard counts only if the manifest names it, and it is added to the manifest
only after the file is complete on disk. A second run predicts only the missing batches.

Shape suffixes: B rows of the batch, K classes.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from plcourse.evaluation.generated import CLASSES, FEATURES, GeneratedRows

MANIFEST = "_manifest.jsonl"  # readers of a folder of Parquet files skip names that begin with an underscore


class Predictor(pl.LightningModule):
    """Predicts with a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Returns ids, predicted classes [B] and probabilities [B, K]."""
        probability_BK = self.network(batch["features"]).softmax(dim=1)
        return {"id": batch["id"], "label": probability_BK.argmax(dim=1), "probability": probability_BK}


class MissingBatches(IterableDataset[dict[str, Any]]):
    """Yields the batches without a committed shard, each with its number. The whole table is never in memory."""

    def __init__(self, rows: GeneratedRows, batch_size: int, done: set[int]) -> None:
        self.rows, self.batch_size, self.done = rows, batch_size, done

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number, first in enumerate(range(0, len(self.rows), self.batch_size)):
            if number not in self.done:
                indices = np.arange(first, min(first + self.batch_size, len(self.rows)))
                yield {"number": number, **self.rows.fetch(indices, epoch=0)}


class ShardWriter(pl.Callback):
    """Writes and commits a shard after every batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_predict_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Writes the file under a temporary name, renames it, and adds it to the manifest."""
        columns = {name: value.tolist() if isinstance(value, Tensor) else value for name, value in outputs.items()}
        shard = self.folder / f"part-{batch['number']:06d}.parquet"
        temporary = self.folder / f"_{shard.name}"
        pq.write_table(pa.table(columns), temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())  # otherwise a power cut could leave the name without the content
        temporary.replace(shard)
        with (self.folder / MANIFEST).open("a") as manifest:
            manifest.write(json.dumps({"number": batch["number"], "file": shard.name}) + "\n")
            manifest.flush()
            os.fsync(manifest.fileno())


def committed(folder: Path) -> set[int]:
    """Returns the numbers of the committed shards. A torn last line of the manifest does not count."""
    manifest = folder / MANIFEST
    if not manifest.exists():
        return set()
    text = manifest.read_text()
    whole = text[: text.rfind("\n") + 1]
    manifest.write_text(whole)  # so that the next line is not appended to the torn one
    return {json.loads(line)["number"] for line in whole.splitlines()}


def predict(network: nn.Module, rows: GeneratedRows, folder: Path, batch_size: int = 65_536) -> int:
    """Predicts the missing batches and returns their number."""
    folder.mkdir(parents=True, exist_ok=True)
    done = committed(folder)
    loader = DataLoader(MissingBatches(rows, batch_size, done), batch_size=None)
    trainer = pl.Trainer(accelerator="cpu", logger=False, callbacks=[ShardWriter(folder)], enable_progress_bar=False)
    trainer.predict(Predictor(network), loader, return_predictions=False)
    return len(committed(folder)) - len(done)


if __name__ == "__main__":
    torch.manual_seed(0)
    target = Path(sys.argv[1])
    new = predict(nn.Linear(FEATURES, CLASSES), GeneratedRows(1_000_000, labeled=False), target)
    print(f"{new} new shards, {pq.read_table(target, columns=['id']).num_rows:,} rows in {target}")
