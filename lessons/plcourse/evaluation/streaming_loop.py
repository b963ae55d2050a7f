"""Prediction in constant memory that a kill only interrupts.

The samples are divided into a fixed grid of batches, whatever the number of processes: batch b starts at position
b * batch_size. Each process computes a run of the batches that no shard has yet, and commits them shard by shard (see
`plcourse.evaluation.shards`). After a kill, the same command computes only what is missing. A sample is always in the
same batch, so its prediction is bit for bit the same, with or without a kill and with any number of processes.

    plcourse fit -c evaluation/classifier --then predict
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytorch_lightning as pl
import torch
from torch import nn

from plcourse.console import say
from plcourse.data.loader import BatchLoader
from plcourse.errors import UserError
from plcourse.evaluation.shards import QUARANTINE, Format, Shard, ShardFolder
from plcourse.evaluation.sink import ShardSink
from plcourse.processes.collectives import from_rank_0, gather_objects
from plcourse.training.loops import PredictLoop
from plcourse.training.variant import AS_TRAINED, Variant, predictions_folder


class StreamingPredictLoop(PredictLoop):
    """A predict loop that writes shards, for the slot ``trainer.predict_loop``.

    A prediction is a dict of columns (see `plcourse.runs.prediction_writer.to_table`). A batch may have an entry
    ``quarantined``, a list of (row, reason) for inputs that could not be read; their rows are left out and listed.

    Args:
        trainer: the trainer that runs the loop.
        output_dir: the folder of the dataset; None means ``predictions`` in the run's folder, or a folder below it if
            the inputs or settings differ from those in the run's config.
        format: ``parquet``, ``csv`` or ``jsonl``.
        columns: the columns to write, in this order; None writes all that ``predict_step`` returns.
        rows_per_shard: rows after which a shard is committed, 1 or more.
        seconds_per_shard: seconds after which a shard is committed at the latest; a kill loses no more work than that.
        escape_formulas: whether a text in a CSV file that begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage
            return gets an apostrophe before it, so that a spreadsheet shows it instead of calculating it.

    Raises:
        ValueError: ``rows_per_shard`` is below 1, the format is unknown, or formulas are escaped in another than CSV.
    """

    writes_predictions = True
    format: Format

    def __init__(
        self,
        trainer: pl.Trainer,
        output_dir: str | None = None,
        format: Format = "parquet",  # noqa: A002  (its usual name)
        columns: list[str] | None = None,
        rows_per_shard: int = 1 << 20,
        seconds_per_shard: float = 30.0,
        escape_formulas: bool = False,
    ) -> None:
        super().__init__(trainer)
        if rows_per_shard < 1:
            raise ValueError(f"rows_per_shard={rows_per_shard}: give 1 or more")
        if format not in get_args(Format):
            raise ValueError(f"format={format!r}: give one of {', '.join(get_args(Format))}")
        if escape_formulas and format != "csv":
            raise ValueError(f"escape_formulas has an effect on the format csv only, not on {format}")
        self.output_dir, self.format, self.columns = output_dir, format, columns
        self.escape_formulas = escape_formulas
        self.rows_per_shard, self.seconds_per_shard = rows_per_shard, seconds_per_shard
        self._sink: ShardSink | None = None

    def setup_data(self) -> None:
        """Restricts the loader to the missing batches that this process computes."""
        super().setup_data()
        trainer, combined = self.trainer, self._combined_loader
        if combined is None:  # limit_predict_batches is 0
            return
        loader = combined.flattened[0]
        if len(combined.flattened) > 1 or not isinstance(loader, BatchLoader):
            raise UserError(
                "StreamingPredictLoop needs a predict_dataloader that returns one BatchLoader of plcourse.data; "
                f"this data module returns {len(combined.flattened)} loader(s), the first a {type(loader).__name__}; "
                "--trainer.predict_loop null writes the predictions of any loader, without resuming them"
            )
        n, batch_size = loader.plan.n, loader.plan.global_batch_size // trainer.world_size
        limit = trainer.limit_predict_batches
        batches = -(-n // batch_size)
        # an int counts batches per process, a float is a fraction of all
        batches = min(batches, limit * trainer.world_size) if isinstance(limit, int) else int(batches * limit)
        self._given = min(n, batches * batch_size)
        variant: Variant = getattr(trainer, "variant", AS_TRAINED)
        folder = Path(self.output_dir or predictions_folder(Path(trainer.default_root_dir), variant.name))
        key = self._key(loader, f"{n} {batches} {batch_size}")
        self._folder = ShardFolder(folder, key, self.format, trainer.global_rank, self.escape_formulas)
        self._committed, self._finished = self._open()
        done = [number for shard in self._committed for number in range(shard.first, shard.first + shard.batches)]
        missing = np.setdiff1d(np.arange(batches), done)
        mine = np.array_split(missing, trainer.world_size)[trainer.global_rank]
        combined.flattened = [loader.with_plan(GridBatches(n, batch_size, mine, trainer.world_size))]
        self.max_batches = [len(mine)]
        self.count_batches(len(mine))
        if self.skip:
            self._publish([])
            return
        names = getattr(trainer.datamodule, "label_names", None)
        limits = (self.rows_per_shard, self.seconds_per_shard)
        self._sink = ShardSink(self._folder, mine, batch_size, names, self.columns, *limits)
        trainer.callbacks.append(self._sink)

    def on_run_end(self) -> Any:
        """Commits the last shard of every rank, then publishes the dataset."""
        assert self._sink is not None
        self._sink.commit()
        self._sink.drain()
        result = super().on_run_end()
        self._publish(self._sink.committed)
        return result

    def teardown(self) -> None:
        """Ends the thread that writes."""
        super().teardown()
        if self._sink is not None:
            self._sink.close()
            self.trainer.callbacks.remove(self._sink)
            self._sink = None

    def _key(self, loader: BatchLoader, shape: str) -> str:
        """Hashes everything that the rows depend on, so that no dataset mixes two predictions."""
        module, inputs = self.trainer.lightning_module, getattr(loader.data, "fingerprint", "")
        parts = [self.settings, _digest(module), inputs, shape, self.format, self.columns]
        parts += [self.escape_formulas] if self.escape_formulas else []
        parts += getattr(module, "ensemble_digests", list)()  # the other weights that `Classifier` averages
        return hashlib.blake2b("".join(f"{part}\n" for part in parts).encode(), digest_size=16).hexdigest()

    def _open(self) -> tuple[list[Shard], bool]:
        """Rank 0 opens the folder; every rank gets the committed shards, or the error."""
        found: Any = None
        if self.trainer.is_global_zero:
            try:
                found = self._folder.open()
                if not found[1]:
                    self._folder.begin(found[0])
            except UserError as error:
                found = error
        found = from_rank_0(found)
        if isinstance(found, UserError):
            raise found
        shards, finished = found
        if shards and not finished:
            say(f"predict: {sum(shard.rows for shard in shards):,} of {self._given:,} rows are there already")
        return shards, finished

    def _publish(self, own: list[Shard]) -> None:
        shards = [*self._committed, *(shard for part in gather_objects(own) for shard in part)]
        self.quarantined = sum(len(shard.quarantined) for shard in shards)
        if self.trainer.is_global_zero:
            if not self._finished:
                self._folder.publish(shards, self._given, self.facts)
            self._folder.close()
        gather_objects(None)  # no rank returns before the dataset is published
        where = self._folder.folder
        done = ", nothing was missing" if self._finished else ""
        say(f"predict: {self._given - self.quarantined:,} rows in {where}{done}")
        if self.quarantined:
            listed = where / QUARANTINE
            say(f"warning: {self.quarantined} of {self._given} inputs could not be read; {listed} says why")


class GridBatches:
    """Yields some batches of a fixed grid over n samples, in order; a `BatchSampler`.

    ``numbers`` (int64) are their positions in the grid, whose last batch may be smaller than ``batch_size``.
    """

    seed = 0  # unused: nothing is drawn

    def __init__(self, n: int, batch_size: int, numbers: np.ndarray, world_size: int = 1) -> None:
        self.n, self.batch_size, self.numbers = n, batch_size, numbers
        self.global_batch_size = batch_size * world_size

    def __len__(self) -> int:
        return len(self.numbers)

    def rank_weight(self, batch_index: int) -> None:
        """Returns None, because no gradient is averaged."""

    def batches(self, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
        """Yields the batches from ``numbers[start]`` on, each int64 [B] with B >= 1; the same in every epoch."""
        for number in self.numbers[start:].tolist():
            first = number * self.batch_size
            yield np.arange(first, min(first + self.batch_size, self.n), dtype=np.int64)


def _digest(module: nn.Module) -> str:
    """Hashes the weights and buffers, so that a renamed checkpoint counts as the same and a retrained one does not."""
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()
