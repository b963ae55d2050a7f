"""The three formats of a shard: Parquet, CSV and JSONL, each written piece by piece to an open file."""

import json
from pathlib import Path
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

Format = Literal["parquet", "csv", "jsonl"]


class ShardWriter(Protocol):
    """Takes the tables of one shard in order."""

    def write(self, table: pa.Table) -> None:
        """Appends rows."""
        ...

    def close(self) -> None:
        """Writes what the format has at its end; the file is complete afterwards."""
        ...


class ParquetShard:
    """One row group per table. Only repeated strings get a dictionary.

    Arrow by default tries a dictionary on every column, which takes most of the writing time for probabilities, of
    which no two are alike (`scripts/benchmarks/benchmark_predict.py`).
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        names = [field.name for field in schema if pa.types.is_dictionary(field.type)]
        self._writer = pq.ParquetWriter(path, schema, use_dictionary=names)  # pyright: ignore[reportArgumentType]

    def write(self, table: pa.Table) -> None:
        """Appends rows."""
        self._writer.write_table(table)

    def close(self) -> None:
        """Writes the footer."""
        self._writer.close()


class CsvShard:
    """A header, then a line per row; a list column of width K becomes K columns ``<name>_0`` and so on."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._writer = pacsv.CSVWriter(path, _flat(schema.empty_table()).schema)

    def write(self, table: pa.Table) -> None:
        """Appends rows."""
        self._writer.write_table(_flat(table))

    def close(self) -> None:
        """Flushes."""
        self._writer.close()


class JsonlShard:
    """One JSON object per line; lists stay lists."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._file = path.open("w", encoding="utf-8")

    def write(self, table: pa.Table) -> None:
        """Appends rows."""
        self._file.writelines(json.dumps(row) + "\n" for row in table.to_pylist())

    def close(self) -> None:
        """Flushes."""
        self._file.close()


WRITERS: dict[str, Any] = {"parquet": ParquetShard, "csv": CsvShard, "jsonl": JsonlShard}


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
