"""Tables of a user's own, by their file names."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa

from plcourse.core.errors import UserError, first_line

SUFFIXES = (".parquet", ".csv", ".tsv")


def read_frame(path: str | Path, suffixes: Sequence[str] = SUFFIXES) -> pd.DataFrame:
    """A table from Parquet, CSV, TSV or JSONL.

    Args:
        path: the file.
        suffixes: those of ``.parquet``, ``.csv``, ``.tsv``, ``.jsonl`` that are read.

    Raises:
        UserError: no such file, another format, or a file that is not what its name says.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    if not file.is_file() or suffix not in suffixes:
        what = f"it ends with '{file.suffix}'" if file.is_file() else "it is not there"
        raise UserError(f"cannot read the table '{path}': {what}; give a file that ends with {', '.join(suffixes)}")
    try:
        if suffix == ".parquet":
            return _read_parquet(file)
        if suffix == ".jsonl":
            return pd.read_json(file, lines=True, encoding="utf-8-sig")
        frame = pd.read_csv(file, sep="\t" if suffix == ".tsv" else ",")
    except TypeError as error:  # a line of JSON that is a list or a number
        raise UserError(f"cannot read the table '{path}': each line must be one JSON object") from error
    # what pandas and Arrow raise for a damaged file
    except (ValueError, OSError, pa.ArrowException, OverflowError) as error:
        raise UserError(f"cannot read the table '{path}': {first_line(error)}") from error
    if not isinstance(frame.index, pd.RangeIndex):  # pandas took the first fields for an index: every column is shifted
        raise UserError(f"cannot read the table '{path}': its rows have more fields than its first line has names")
    return frame


def _read_parquet(file: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(file)
    except (LookupError, TypeError, AttributeError) as error:
        # columns that Arrow can read, with damaged notes of pandas on how they were written
        raise ValueError(f"its metadata of pandas is damaged ({type(error).__name__}: {first_line(error)})") from error
