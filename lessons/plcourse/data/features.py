"""The columns of a table: which are features, which cells cannot be used, and how features are standardized.

Shapes: N rows of a table, B rows of a batch, D features.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from plcourse.console import say
from plcourse.data.frames import as_text, numbers
from plcourse.data.names import listed
from plcourse.errors import UserError, nearest

_INDEX = re.compile(r"Unnamed: \d+(\.\d+)*")  # an index of pandas, or the row names of R
_NO_NUMBER = {"na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "--", "?", ".", "missing", "unknown"}
_NAMES = ("id", "index", "level_0")  # columns with these names that hold distinct whole numbers are no features
_COMMA = re.compile(r"[+-]?\d+,\d+")
_CONSTANT = 1e-12  # a standard deviation below this fraction of the largest value is rounding, not information


def require_columns(name: str, frame: pd.DataFrame, columns: Iterable[str | None]) -> None:
    """Raises a UserError that names the first column that a table does not have; None stands for no column."""
    for column in columns:
        if column is not None and column not in frame:
            raise UserError(f"{name} has no column '{column}'; it has {', '.join(frame)}{nearest(column, frame)}")


def row_ids(name: str, frame: pd.DataFrame, column: str | None, prefix: str) -> list[str]:
    """The ids of the rows: the values of `column`, which must all differ, or else their numbers, ``prefix/00017``."""
    if column is None:
        return [f"{prefix}/{row:05d}" for row in range(len(frame))]
    ids = as_text(frame, column)
    wrong = np.flatnonzero(ids.isna() | ids.duplicated())
    if len(wrong):
        value = ids.iloc[wrong[0]]
        what = "is missing" if value is None else f"is '{value}' again"
        raise UserError(f"{name}, row {wrong[0]}: column '{column}' {what}; each row needs its own id")
    return ids.tolist()


def feature_matrix(frame: pd.DataFrame, columns: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
    """The values of feature columns, float64 [N, D], and the reason for each row that cannot be used, by row number.

    ``True`` and ``False`` count as 1 and 0; the rows that cannot be used are 0.
    """
    values_ND = np.empty((len(frame), len(columns)))
    for i, name in enumerate(columns):
        values_ND[:, i] = numbers(frame, name)
        if (unknown := np.isnan(values_ND[:, i])).any():
            words = as_text(frame.loc[unknown], name).str.strip().str.lower()
            values_ND[unknown, i] = words.map({"true": 1.0, "false": 0.0}).to_numpy(np.float64)
    wrong: dict[int, str] = {}
    for row, i in zip(*np.nonzero(~np.isfinite(values_ND)), strict=True):
        value = frame[columns[i]].iloc[row]
        what = "is missing" if pd.isna(value) else f"is '{value}', not a finite number"
        wrong.setdefault(int(row), f"column '{columns[i]}' {what}")
    values_ND[list(wrong)] = 0
    return values_ND, wrong


def numeric_columns(name: str, frame: pd.DataFrame, taken: Collection[str | None]) -> list[str]:
    """The columns of a table that may be features, in its order, without those `taken` for another role.

    A column is numeric if its cells are numbers, some of which may be missing or written as ``NA``, ``null`` or ``?``;
    such rows are refused later. Messages, which call the table `name`, say why other columns are left out. Numbers with
    a decimal comma are a UserError.
    """
    chosen: list[str] = []
    others: list[str] = []
    for column in map(str, frame):
        if column in taken:
            continue
        values = numbers(frame, column)
        known = ~np.isnan(values)
        cells = as_text(frame.loc[~known], column).dropna()
        words = [cell for cell in cells if cell.strip().lower() not in _NO_NUMBER]
        commas = [cell for cell in words if _COMMA.fullmatch(cell.strip())]
        if commas and len(commas) == len(words):
            raise UserError(
                f"{name}: column '{column}' writes numbers with a comma ('{commas[0]}'); write them with a point, "
                f"{commas[0].replace(',', '.')}"
            )
        if words or not known.any() or pd.api.types.is_bool_dtype(frame[column]):
            mostly = known.sum() > len(words) > 0
            others.append(f"{column} ('{words[0]}' is not a number)" if mostly else column)
        elif not is_index(name, column, values):
            chosen.append(column)
    if others:
        say(f"{name}: {len(chosen)} features; left out because they are not numeric: {listed(others)}")
    return chosen


def is_index(name: str, column: str, values: np.ndarray) -> bool:
    """Whether the `values` (float64 [N]) of a column only number the rows; a message says why it is left out.

    That holds for a column without a name, as pandas and R write an index; for one that counts the rows from 0 or 1;
    and for distinct whole numbers in a column that is called ``id`` or ``index``.
    """
    reason = None
    if _INDEX.fullmatch(column):
        reason = "is a saved index"
    elif len(values) < 3:
        pass
    elif column.casefold() in _NAMES and len(np.unique(values)) == len(values) and not (values % 1).any():
        reason = "only names the rows"
    elif any(np.array_equal(values, np.arange(start, start + len(values))) for start in (0, 1)):
        reason = "only counts the rows"
    if reason:
        say(f"{name}: column '{column}' {reason} and is left out; name it in feature_columns to use it")
    return reason is not None


@dataclass(frozen=True)
class Standardizer:
    """Subtracts the mean of each feature and divides by its standard deviation, in float64."""

    names: Sequence[str]  # D names of features
    mean: np.ndarray  # float64 [D]
    std: np.ndarray  # float64 [D], above 0

    @classmethod
    def fit(cls, features_ND: np.ndarray, names: Sequence[str]) -> "Standardizer":
        """Mean and standard deviation of the training rows; a constant feature is divided by 1."""
        largest_D = np.abs(features_ND).max(axis=0)
        unit_D = np.where(largest_D > 1e100, largest_D, 1.0)  # whose squares would overflow
        scaled_ND = features_ND / unit_D
        std_D = scaled_ND.std(axis=0) * unit_D
        return cls(names, scaled_ND.mean(axis=0) * unit_D, np.where(std_D > _CONSTANT * largest_D, std_D, 1.0))

    def __call__(self, features_BD: np.ndarray) -> torch.Tensor:
        """Standardizes features [B, D] to float32 [B, D]; a value beyond its range is a UserError with its column."""
        if wrong := self.beyond(features_BD):
            raise UserError(next(iter(wrong.values())))
        return torch.from_numpy(((features_BD - self.mean) / self.std).astype(np.float32))

    def beyond(self, features_BD: np.ndarray) -> dict[int, str]:
        """The reason for each row that exceeds the range of float32 after it was standardized, by row number."""
        with np.errstate(over="ignore"):
            far_BD = np.abs((features_BD - self.mean) / self.std) > np.finfo(np.float32).max
        return {
            int(row): f"column '{self.names[column]}' is {features_BD[row, column]:g}, too far from the training rows "
            f"(mean {self.mean[column]:g}) for float32"
            for row, column in zip(*np.nonzero(far_BD), strict=True)
        }
