"""Which columns of a table are features, and how these are standardised.

Shapes: N rows of the training part, B rows of a batch, D features.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from plcourse.console import say
from plcourse.data.frames import as_text, numbers
from plcourse.data.names import listed
from plcourse.errors import UserError

_INDEX = re.compile(r"Unnamed: \d+(\.\d+)*")  # an index of pandas, or the row names of R
_NO_NUMBER = {"na", "n/a", "#n/a", "nan", "null", "none", "nil", "-", "--", "?", ".", "missing", "unknown"}
_NAMES = ("id", "index", "level_0")  # of whole numbers that are all different
_COMMA = re.compile(r"[+-]?\d+,\d+")
# a spread below this share of the largest value is rounding, not information
_CONSTANT = 1e-12


def features_of(name: str, frame: pd.DataFrame, taken: Collection[str | None]) -> list[str]:
    """The numeric columns of a table that may be features, in its order.

    A column is numeric if its cells are numbers, some of which may be missing or written as ``NA``, ``null`` or ``?``:
    such rows are refused later. All others are left out with a line, and so are a column without a name, as pandas and
    R write for an index, one that only counts the rows, from 0 or 1, and one of distinct whole numbers that is called
    ``id`` or ``index``.

    Args:
        name: what an error calls the table.
        frame: the table.
        taken: columns that are something else.

    Raises:
        UserError: a column that writes numbers with a decimal comma.
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
        elif reason := index_like(column, values):
            say(f"{name}: column '{column}' {reason} and is left out; name it in feature_columns to use it")
        else:
            chosen.append(column)
    if others:
        say(f"{name}: {len(chosen)} features; not numeric, and so none: {listed(others)}")
    return chosen


def feature_values(frame: pd.DataFrame, column: str) -> np.ndarray:
    """A column that was chosen as a feature, float64 [N]: its numbers, and 1 and 0 for ``True`` and ``False``."""
    values = numbers(frame, column)
    unknown = np.isnan(values)
    if unknown.any():
        flags = as_text(frame.loc[unknown], column).str.strip().str.lower().map({"true": 1.0, "false": 0.0})
        values = values.copy()
        values[unknown] = flags.to_numpy(np.float64)
    return values


def index_like(column: str, values: np.ndarray) -> str | None:
    """Why a column says nothing of its rows but their place in the file; None where it may.

    Args:
        column: its name.
        values: float64 [N].
    """
    if _INDEX.fullmatch(column):
        return "is an index that was saved along"
    if len(values) < 3:
        return None
    if column.casefold() in _NAMES and len(np.unique(values)) == len(values) and not (values % 1).any():
        return "only names the rows"
    if any(np.array_equal(values, np.arange(start, start + len(values))) for start in (0, 1)):
        return "only counts the rows"
    return None


@dataclass(frozen=True)
class Standardiser:
    """Subtracts the mean of each feature and divides by its standard deviation, in float64.

    Args:
        names: D names of features.
        mean: float64 [D].
        std: float64 [D], above 0.
    """

    names: Sequence[str]
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def fit(cls, features_ND: np.ndarray, names: Sequence[str]) -> "Standardiser":
        """Mean and standard deviation of the training rows; a constant feature is divided by 1."""
        largest_D = np.abs(features_ND).max(axis=0)
        unit_D = np.where(largest_D > 1e100, largest_D, 1.0)  # whose squares would overflow
        scaled_ND = features_ND / unit_D
        std_D = scaled_ND.std(axis=0) * unit_D
        return cls(names, scaled_ND.mean(axis=0) * unit_D, np.where(std_D > _CONSTANT * largest_D, std_D, 1.0))

    def __call__(self, features_BD: np.ndarray) -> torch.Tensor:
        """Standardised float32 [B, D] of features [B, D].

        Raises:
            UserError: a value that is beyond the range of float32, with its column.
        """
        wrong = self.beyond(features_BD)
        if wrong:
            raise UserError(next(iter(wrong.values())))
        return torch.from_numpy(((features_BD - self.mean) / self.std).astype(np.float32))

    def beyond(self, features_BD: np.ndarray) -> dict[int, str]:
        """A reason by the number of each row that cannot be written in float32 after it was standardised."""
        with np.errstate(over="ignore"):
            far_BD = np.abs((features_BD - self.mean) / self.std) > np.finfo(np.float32).max
        return {
            int(row): f"column '{self.names[column]}' is {features_BD[row, column]:g}, too far from the training rows "
            f"(mean {self.mean[column]:g}) for float32"
            for row, column in zip(*np.nonzero(far_BD), strict=True)
        }
