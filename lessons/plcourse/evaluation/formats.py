"""The file formats of a shard: Parquet, CSV and JSONL. Each writes table by table to an open file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

Format = Literal["parquet", "csv", "jsonl"]


class ShardWriter(Protocol):
    """An open shard file."""

    def write(self, table: pa.Table, /) -> None:
        """Appends the rows of a table."""
        ...

    def close(self) -> None:
        """Completes the file."""
        ...


class CsvShard:
    """A header and one line per row; a list column of width K becomes K columns ``<name>_0`` and so on."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pacsv.CSVWriter(path, _flat(schema.empty_table()).schema)

    def write(self, table: pa.Table) -> None:
        """Appends the rows of a table."""
        self._writer.write_table(_flat(table))

    def close(self) -> None:
        """Completes the file."""
        self._writer.close()


class JsonlShard:
    """One JSON object per line; lists stay lists."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._file = path.open("w", encoding="utf-8")

    def write(self, table: pa.Table) -> None:
        """Appends the rows of a table."""
        self._file.writelines(json.dumps(row) + "\n" for row in table.to_pylist())

    def close(self) -> None:
        """Completes the file."""
        self._file.close()


def parquet_shard(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A Parquet file with one row group per table, and a dictionary only for columns of repeated strings.

    By default Arrow tries a dictionary for every column. For probabilities, which hardly ever repeat, that takes most
    of the writing time (`scripts/benchmarks/benchmark_predict.py`).
    """
    names = [field.name for field in schema if pa.types.is_dictionary(field.type)]
    return pq.ParquetWriter(path, schema, use_dictionary=names)  # pyright: ignore[reportArgumentType]


WRITERS: dict[str, Callable[[Path, pa.Schema], ShardWriter]] = {
    "parquet": parquet_shard,
    "csv": CsvShard,
    "jsonl": JsonlShard,
}


def _flat(table: pa.Table) -> pa.Table:
    columns: dict[str, Any] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        kind = column.type
        if not pa.types.is_fixed_size_list(kind):
            columns[name] = column.cast(pa.string()) if pa.types.is_dictionary(kind) else column
            continue
        flat, width = column.combine_chunks().flatten(), kind.list_size
        for k in range(width):
            columns[f"{name}_{k}"] = flat.take(pa.array(range(k, len(flat), width), pa.int64()))
    return pa.table(columns)
