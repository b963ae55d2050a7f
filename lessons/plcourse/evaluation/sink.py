"""Takes each prediction from memory to disk, as Parquet, CSV or JSONL, while the next one is computed."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytorch_lightning as pl

from plcourse.errors import RunFailed
from plcourse.evaluation.shards import FORMULA, Format, Shard, ShardFolder
from plcourse.runs.prediction_columns import Origin
from plcourse.runs.prediction_writer import to_table

_GROUP_ROWS, _GROUP_BYTES = 1 << 16, 1 << 24  # tables are written to a shard in groups of at least this size


class ShardSink(pl.Callback):
    """Writes the batches of one process as shards of consecutive batches, listed in ``committed``.

    One thread writes, and at most one group waits for it, so memory stays flat however slow the disk is. ``numbers``
    (int64, ascending) are the positions of the process's batches in the grid of ``batch_size`` samples each; see
    `StreamingPredictLoop` for the other arguments.
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
        self._file: _ShardFile | None = None
        self._open: _OpenShard | None = None

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Mapping[str, Any],
        batch: Mapping[str, Any],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Adds the rows of one batch to the open shard.

        Commits the shard if it is large or old enough. A batch that does not follow the last one starts a new shard.
        """
        number = self.numbers[batch_idx]
        if self._open is not None and number != self._open.first + self._open.batches:
            self.commit()
        shard = self._open = self._open or _OpenShard(number)
        table = to_table(outputs, self.label_names, self.columns, Origin(batch))
        if unread := batch.get("quarantined"):
            shard.quarantined += [(_name(batch["id"][row]), reason) for row, reason in unread]
            keep = np.ones(table.num_rows, bool)
            keep[[row for row, _ in unread]] = False
            table = table.filter(pa.array(keep))
        shard.batches += 1
        shard.rows += table.num_rows
        shard.group.append(table)
        shard.group_rows += table.num_rows
        bytes_per_row = table.nbytes / max(table.num_rows, 1)
        if shard.group_rows >= _GROUP_ROWS or shard.group_rows * bytes_per_row >= _GROUP_BYTES:
            self._write_group(shard)
        if shard.rows >= self.rows_per_shard or time.monotonic() - shard.began >= self.seconds_per_shard:
            self.commit()

    def commit(self) -> None:
        """Commits the open shard, if there is one."""
        shard, self._open = self._open, None
        if shard is None:
            return
        self._write_group(shard)

        def finish() -> None:
            assert self._file is not None
            self._file.close()
            self._file = None
            temporary = self.folder.path(shard.first * self.batch_size)
            file, size = temporary.name.removeprefix("."), temporary.stat().st_size
            done = Shard(file, shard.first, shard.batches, shard.rows, size, shard.quarantined)
            self.folder.commit(temporary, done)
            self.committed.append(done)
            pa.default_memory_pool().release_unused()  # otherwise the allocator keeps about a MiB per shard

        self._submit(finish)

    def drain(self) -> None:
        """Waits until everything is on disk.

        Raises:
            RunFailed: writing failed.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except OSError as error:
            raise RunFailed(
                f"cannot write into '{self.folder.partial}': {error.strerror or error}; committed shards are kept, and "
                "the same command continues from them"
            ) from error

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Releases the folder for the next attempt; after an exception, Lightning does not tear down the loop."""
        self.close()

    def close(self) -> None:
        """Ends the thread and releases the folder."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self.folder.close()

    def _write_group(self, shard: "_OpenShard") -> None:
        if not shard.group:
            return
        group, shard.group, shard.group_rows = shard.group, [], 0

        def write() -> None:
            table = pa.concat_tables(group)
            if self._file is None:
                path = self.folder.path(shard.first * self.batch_size)
                self._file = _ShardFile(path, self.folder.format, table.schema, self.folder.escape_formulas)
            self._file.write(table)

        self._submit(write)

    def _submit(self, work: Callable[[], None]) -> None:
        self.drain()
        self._pending = self._thread.submit(work)


@dataclass
class _OpenShard:
    """The shard that is growing; ``group`` holds the tables that are not in its file yet."""

    first: int
    batches: int = 0
    rows: int = 0
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    group: list[pa.Table] = field(default_factory=list)
    group_rows: int = 0
    began: float = field(default_factory=time.monotonic)


class _ShardFile:
    """An open file, to which tables are appended.

    Parquet gets one row group per table. CSV gets a header, and K columns ``<name>_0`` and so on for a list column of
    width K, and an apostrophe before each text that begins like a formula, where this is asked for. JSONL gets one
    object per line, in which lists stay lists.
    """

    write: Callable[[pa.Table], object]

    def __init__(self, path: Path, format_: Format, schema: pa.Schema, escape_formulas: bool) -> None:
        if format_ == "parquet":
            # By default Arrow tries a dictionary for every column. For probabilities, which hardly ever repeat, that
            # takes most of the writing time (`scripts/benchmarks/benchmark_predict.py`).
            names: Any = [column.name for column in schema if pa.types.is_dictionary(column.type)]
            parquet = pq.ParquetWriter(path, schema, use_dictionary=names)
            self.write, self.close = parquet.write_table, parquet.close
        elif format_ == "csv":
            csv = pacsv.CSVWriter(path, _flat(schema.empty_table()).schema)
            self.write, self.close = lambda table: csv.write_table(_flat(table, escape_formulas)), csv.close
        else:
            file = path.open("w", encoding="utf-8")
            self.write = lambda table: file.writelines(json.dumps(row) + "\n" for row in table.to_pylist())
            self.close = file.close


def _flat(table: pa.Table, escape_formulas: bool = False) -> pa.Table:
    columns: dict[str, pa.ChunkedArray | pa.Array] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if not pa.types.is_fixed_size_list(column.type):
            columns[name] = column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column
            if escape_formulas and pa.types.is_string(columns[name].type):
                replace = pc.replace_substring_regex  # pyright: ignore[reportAttributeAccessIssue]  (made at import)
                columns[name] = replace(columns[name], FORMULA, r"'\1")
            continue
        flat, width = column.combine_chunks().flatten(), column.type.list_size
        for k in range(width):
            columns[f"{name}_{k}"] = flat.take(pa.array(range(k, len(flat), width), pa.int64()))
    return pa.table(columns)


def _name(item: Any) -> str:
    return str(item.as_py() if isinstance(item, pa.Scalar) else item)
