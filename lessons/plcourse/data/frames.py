"""Reads a user's tables without interpreting their cells.

A cell of a CSV, TSV or JSONL file is its text: ``00017``, ``None`` and ``NA`` are values, and only an empty cell is
missing. Parquet keeps its own types. `as_text` and `numbers` convert columns.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from plcourse.data.lines import decoded, read_delimited, with_line_feeds
from plcourse.errors import UserError, first_line

SUFFIXES = (".parquet", ".csv", ".tsv")
_INDEX = "__index_level_"  # pandas' name of an unnamed index in a Parquet file


def read_frame(path: str | Path, suffixes: Sequence[str] = SUFFIXES) -> pd.DataFrame:
    """Reads a table from a Parquet, CSV, TSV or JSONL file, if its suffix is one of `suffixes`.

    A missing file, another format and a damaged file are UserErrors.

    Returns:
        Columns of text from a CSV or TSV file; of text, lists and objects from JSONL; with its own types from Parquet.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if not file.is_file() or suffix not in suffixes:
        what = f"it ends with '{file.suffix}'" if file.is_file() else "it does not exist"
        raise UserError(f"cannot read the table '{path}': {what}; give a file that ends with {', '.join(suffixes)}")
    if suffix == ".parquet":
        with readable(path):
            return to_frame(pq.read_table(file))
    return _read_jsonl(file) if suffix == ".jsonl" else read_delimited(file, quoted=suffix == ".csv")


@contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Turns the errors of pandas and Arrow for a damaged file into a UserError of one line."""
    try:
        yield
    except (ValueError, OSError, pa.ArrowException, OverflowError, LookupError, TypeError) as error:
        raise UserError(f"cannot read the table '{path}': {first_line(error)}") from error


def to_frame(table: pa.Table) -> pd.DataFrame:
    """An Arrow table as a frame, with exact integers where some are missing; a ValueError for two equal names."""
    names = table.column_names
    if again := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"it has two columns '{again}'; rename one of them")
    table = table.drop_columns([name for name in names if name.startswith(_INDEX)])
    return table.to_pandas(ignore_metadata=True, integer_object_nulls=True)


def as_text(frame: pd.DataFrame, name: str) -> pd.Series:
    """Each value of a column as it was written, as Python strings; None if it is missing.

    Whole numbers have no decimal point, even if Parquet stores them as floats.
    """
    column = pd.Series(frame[name])
    missing = column.isna().to_numpy()
    text = [None if gone else _written(value) for value, gone in zip(column.tolist(), missing, strict=True)]
    return pd.Series(text, index=column.index, dtype=object)


def _written(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def numbers(frame: pd.DataFrame, name: str) -> np.ndarray:
    """The values of a column as float64 [N]; NaN if a value is missing or not a number."""
    column = pd.Series(frame[name])
    if pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(np.float64, na_value=np.nan)
    if isinstance(column.dtype, pd.StringDtype):
        try:
            return pa.array(column, pa.large_string()).cast(pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowException:
            pass  # at least one cell is not a number
    missing = column.isna().to_numpy()
    found = [np.nan if gone else _number(value) for value, gone in zip(column.tolist(), missing, strict=True)]
    return np.array(found, np.float64)


def _number(value: Any) -> float:
    try:
        return np.nan if isinstance(value, str) and "_" in value else float(value)  # 1_000 is a number only in Python
    except (TypeError, ValueError, OverflowError):
        return np.nan


def _read_jsonl(file: Path) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(with_line_feeds(decoded(file, "table")).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(
                line, parse_int=str, parse_float=str, parse_constant=_constant, object_pairs_hook=_distinct
            )
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is not a character
        except (ValueError, RecursionError) as error:
            raise UserError(f"cannot read the table '{file}', line {number}: {first_line(error)}") from error
        if not isinstance(row, dict):
            raise UserError(f"cannot read the table '{file}', line {number}: each line must be one JSON object")
        rows.append({name: None if value == "" else value for name, value in row.items()})
    return pd.DataFrame(rows, dtype=object)


def _constant(name: str) -> str | None:
    return None if name == "NaN" else name  # how Python writes a missing number


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"duplicate key '{next(name for name in names if names.count(name) > 1)}'")
    return found
