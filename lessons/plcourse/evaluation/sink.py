"""Between the loop and the shards: takes each prediction from memory to disk while the next one is computed."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pytorch_lightning as pl

from plcourse.core.columns import to_table
from plcourse.core.errors import RunFailed
from plcourse.evaluation.formats import WRITERS, ShardWriter
from plcourse.evaluation.shards import Shard, ShardFolder

_GROUP_ROWS, _GROUP_BYTES = 1 << 16, 1 << 24  # a shard grows by at least so many rows, or bytes, at a time


class ShardSink(pl.Callback):
    """Writes the batches of one process as shards of consecutive batches.

    One thread writes, and at most one piece waits for it, so memory stays flat however slow the disk is.

    Args:
        folder: where shards are committed.
        numbers: which batch of the grid each batch of this process is, int64, ascending.
        batch_size: samples per batch of the grid.
        label_names: names of the classes, None for none.
        columns: which columns to write, None for all.
        rows_per_shard: rows after which a shard is committed.
        seconds_per_shard: seconds after which it is committed at the latest.

    Attributes:
        committed: the shards committed so far.
    """

    def __init__(
        self,
        folder: ShardFolder,
        numbers: np.ndarray,
        batch_size: int,
        label_names: Sequence[str] | None,
        columns: Sequence[str] | None,
        rows_per_shard: int,
        seconds_per_shard: float,
    ) -> None:
        self.folder, self.numbers, self.batch_size = folder, numbers.tolist(), batch_size
        self.label_names, self.columns = label_names, columns
        self.rows_per_shard, self.seconds_per_shard = rows_per_shard, seconds_per_shard
        self.committed: list[Shard] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="shards")
        self._pending: Future[None] | None = None
        self._writer: ShardWriter | None = None
        self._start(first=-1)

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Takes the rows of one batch; commits the shard when it is large or old enough, or the next batch is not
        the one that follows."""
        number = self.numbers[batch_idx]
        if self._batches and number != self._first + self._batches:
            self.commit()
        if not self._batches:
            self._start(first=number)
        table = to_table(outputs, self.label_names, self.columns)
        if unread := batch.get("quarantined"):
            self._quarantined += [(str(_item(batch["id"], row)), reason) for row, reason in unread]
            keep = np.ones(table.num_rows, bool)
            keep[[row for row, _ in unread]] = False
            table = table.filter(pa.array(keep))
        self._batches += 1
        self._rows += table.num_rows
        self._group.append(table)
        self._group_rows += table.num_rows
        if self._group_rows >= _GROUP_ROWS or self._group_rows * self._row_bytes(table) >= _GROUP_BYTES:
            self._write_group()
        if self._rows >= self.rows_per_shard or time.monotonic() - self._began >= self.seconds_per_shard:
            self.commit()

    def commit(self) -> None:
        """Commits what has come since the last shard, if anything has."""
        if not self._batches:
            return
        self._write_group()
        first, batches, rows, quarantined = self._first, self._batches, self._rows, self._quarantined

        def finish() -> None:
            assert self._writer is not None
            self._writer.close()
            self._writer = None
            temporary = self.folder.path(first * self.batch_size)
            name = temporary.name.removeprefix(".")
            shard = Shard(name, first, batches, rows, temporary.stat().st_size, quarantined)
            self.folder.commit(temporary, shard)
            self.committed.append(shard)
            pa.default_memory_pool().release_unused()  # else the allocator's leftovers grow by a MiB or so per shard

        self._submit(finish)
        self._start(first=-1)

    def drain(self) -> None:
        """Waits until everything is on disk.

        Raises:
            RunFailed: it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except OSError as error:
            raise RunFailed(
                f"cannot write into '{self.folder.partial}': {error.strerror or error}; what was committed stays, and "
                "the same command goes on from there"
            ) from error

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leaves the folder to the next attempt; Lightning tears a loop down only where it has come to its end."""
        self.close()

    def close(self) -> None:
        """Ends the thread, and lets others write into the folder."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self.folder.close()

    def _start(self, first: int) -> None:
        self._first, self._batches, self._rows = first, 0, 0
        self._quarantined: list[tuple[str, str]] = []
        self._group: list[pa.Table] = []
        self._group_rows = 0
        self._began = time.monotonic()

    def _write_group(self) -> None:
        if not self._group:
            return
        group, self._group, self._group_rows = self._group, [], 0
        first_row = self._first * self.batch_size

        def write() -> None:
            table = pa.concat_tables(group)
            if self._writer is None:
                self._writer = WRITERS[self.folder.format](self.folder.path(first_row), table.schema)
            assert self._writer is not None
            self._writer.write(table)

        self._submit(write)

    def _submit(self, work: Callable[[], None]) -> None:
        self.drain()
        self._pending = self._thread.submit(work)

    @staticmethod
    def _row_bytes(table: pa.Table) -> float:
        return table.nbytes / max(table.num_rows, 1)


def _item(ids: Any, row: int) -> Any:
    found = ids[row]
    return found.as_py() if isinstance(found, pa.Scalar) else found
