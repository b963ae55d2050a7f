"""Tables of numbers with a target, read from a file or a package; and new rows without one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from plcourse.console import say
from plcourse.data import keys_of, permutation
from plcourse.data.features import Standardiser, feature_values, index_like
from plcourse.data.frames import as_text, numbers, read_frame
from plcourse.data.names import listed
from plcourse.data.provenance import Identities, row_hashes
from plcourse.errors import UserError, nearest

SOURCES = ("diabetes", "autompg", "table_file")
_AUTOMPG = ("cylinders", "displacement", "horsepower", "weight", "acceleration", "model_year", "origin")


@dataclass(frozen=True)
class Columns:
    """Which column of a table is what.

    Args:
        target: what to predict.
        group: whose equal values stay on one side of every split; None for none.
        features: what to learn from; None for all others, but for those that only count the rows.
        id: the rows' names; None numbers the rows.
    """

    target: str
    group: str | None = None
    features: list[str] | None = None
    id: str | None = None


class Rows:
    """Rows made into batches.

    Args:
        features: float32 [N, F], standardised.
        ids: N names.
        labels: float32 [N], in the target's own units; None where they are not known.
        identities: who the rows are; None for new ones.
    """

    def __init__(
        self,
        features: torch.Tensor,
        ids: list[str],
        labels: torch.Tensor | None = None,
        identities: Identities | None = None,
    ) -> None:
        self.features, self.ids, self.labels, self.identities = features, ids, labels, identities

    def __len__(self) -> int:
        return len(self.ids)

    def fetch(self, indices: np.ndarray, epoch: int) -> dict[str, Any]:
        """The batch of the rows at ``indices`` (int64 [B]); the epoch changes nothing."""
        at = torch.from_numpy(indices)
        batch = {"features": self.features[at], "id": [self.ids[i] for i in indices.tolist()]}
        return batch if self.labels is None else {**batch, "label": self.labels[at]}


class Table:
    """A table of numbers.

    Attributes:
        features: float64 [N, F].
        names: the column of each feature.
        targets: float64 [N].
        ids: N distinct names.
        units: int64 [N], equal for rows that must not be separated.
        hashes: uint64 [N], equal for equal rows; of another group they are other rows.
    """

    def __init__(
        self,
        features: np.ndarray,
        names: Sequence[str],
        targets: np.ndarray,
        ids: list[str],
        groups: np.ndarray | None,
        group_keys: np.ndarray | None = None,
    ) -> None:
        self.features, self.names, self.targets, self.ids = features, list(names), targets, ids
        whole = np.column_stack([features, targets]) if groups is None else groups
        self.units = np.unique(whole, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
        self.hashes = row_hashes(np.column_stack([features, targets]))
        if group_keys is not None:  # equal rows of two groups may be on two sides of a split
            self.hashes = row_hashes(np.column_stack([self.hashes, group_keys]))

    @classmethod
    def read(cls, source: str, path: str | None, columns: Columns, known: Sequence[str] | None = None) -> "Table":
        """Reads a source.

        Args:
            source: one of `SOURCES`.
            path: the file of a ``table_file``.
            columns: which column is what.
            known: the features that a model was trained on, in their order; None where there is no model yet.

        Raises:
            UserError: no such source, file or column, a value that is missing, or a column that is no number.
        """
        frame, name = _frame(source, path), path or source
        features = known or columns.features
        for column in (columns.target, columns.group, columns.id, *(features or ())):
            if column is not None and column not in frame:
                raise UserError(f"{name} has no column '{column}'{nearest(column, frame.columns)}")
        others = [each for each in map(str, frame) if each not in (columns.target, columns.group, columns.id)]
        if known and columns.features is None and (further := [each for each in others if each not in known]):
            say(f"{name}: the model was trained without {listed(further)}; left out")
        chosen = list(features) if features else [each for each in others if not _left_out(name, each, frame)]
        if not chosen:
            raise UserError(f"{name} has no column to learn from; it has {', '.join(frame)}")
        ids = _ids(name, frame, columns.id) or [f"{source}/{row:05d}" for row in range(len(frame))]
        groups = keys = None
        if columns.group is not None:
            cells = as_text(frame, columns.group)
            if cells.isna().any():
                raise UserError(f"{name}: row {np.flatnonzero(cells.isna())[0]} has no value in '{columns.group}'")
            groups, keys = cells.astype("category").cat.codes.to_numpy(), keys_of(cells.tolist())
        values = np.column_stack([_values(name, each, frame) for each in chosen])
        return cls(values, chosen, _values(name, columns.target, frame), ids, groups, keys)

    def choose(self, size: int | float, seed: int) -> np.ndarray:
        """Sorted numbers of about ``size`` rows, in whole units, another choice for another seed.

        Raises:
            UserError: that would leave none to train on.
        """
        count = round(size * len(self.units)) if isinstance(size, float) else size
        sizes = np.bincount(self.units)
        order = permutation(seed, 0, len(sizes))
        taken = order[: int(np.searchsorted(np.cumsum(sizes[order]), count)) + (count > 0)]
        if len(taken) >= len(sizes):
            raise UserError(f"test_size={size} leaves none of {len(self.units)} rows to train on; make it smaller")
        return np.flatnonzero(np.isin(self.units, taken))


def new_rows(path: str, scale: dict[str, Any], id_column: str | None) -> Rows:
    """The rows of a file without a target, standardised as a model was trained; other columns are not looked at.

    Args:
        path: a Parquet, CSV or TSV file.
        scale: ``features``, ``mean`` and ``std`` of the training part.
        id_column: the rows' names; None numbers them.

    Raises:
        UserError: no such file, a column that is missing, or a cell that is missing or no finite number.
    """
    frame, names = read_frame(path), scale.get("features")
    if names is None:
        raise UserError("the checkpoint does not say which columns it was trained on; train again with this version")
    for column in (*names, id_column):
        if column is not None and column not in frame:
            raise UserError(f"{path} has no column '{column}'{nearest(column, frame.columns)}")
    if frame.empty:
        raise UserError(f"the table '{path}' has no rows")
    values = np.column_stack([_values(path, name, frame) for name in names])
    standardise = Standardiser(names, np.array(scale["mean"]), np.array(scale["std"]))
    ids = _ids(path, frame, id_column) or [f"{Path(path).stem}/{row:05d}" for row in range(len(frame))]
    return Rows(standardise(values), ids)


def _frame(source: str, path: str | None) -> pd.DataFrame:
    if source == "diabetes":
        from sklearn.datasets import load_diabetes

        return load_diabetes(as_frame=True, scaled=False)["frame"]  # pyright: ignore[reportCallIssue, reportArgumentType]  (a Bunch, for the stubs a tuple)
    if source == "autompg":
        from mlxtend.data import autompg_data

        features, target = autompg_data()
        return pd.DataFrame(features[:, : len(_AUTOMPG)], columns=list(_AUTOMPG)).assign(target=target)
    if source != "table_file":
        raise UserError(f"source is '{source}'; it is one of {', '.join(SOURCES)}{nearest(source, SOURCES)}")
    if path is None:
        raise UserError("table_file needs a file: give --data.init_args.path")
    return read_frame(path)


def _ids(name: str, frame: pd.DataFrame, column: str | None) -> list[str] | None:
    """The names of the rows; None where no column has them."""
    if column is None:
        return None
    ids = as_text(frame, column)
    wrong = np.flatnonzero(ids.isna() | ids.duplicated())
    if len(wrong):
        value = ids.iloc[wrong[0]]
        what = "is missing" if value is None else f"is '{value}' again"
        raise UserError(f"{name}, row {wrong[0]}: column '{column}' {what}; each row needs an id of its own")
    return ids.tolist()


def _values(name: str, column: str, frame: pd.DataFrame) -> np.ndarray:
    """The numbers of a column, float64 [N]; ``True`` and ``False`` count as 1 and 0.

    Raises:
        UserError: a cell that is missing, or no finite number.
    """
    values, cells = feature_values(frame, column), pd.Series(frame[column])
    missing = np.flatnonzero(cells.isna())
    wrong = np.setdiff1d(np.flatnonzero(~np.isfinite(values)), missing)
    if len(wrong) and len(wrong) + len(missing) == len(values):
        raise UserError(
            f"column '{column}' of {name} is not numeric (row {wrong[0]} holds '{cells.iloc[wrong[0]]}'): encode it, "
            "leave it out, name it as group or id_column, or list feature_columns without it"
        )
    if len(wrong):
        cell = cells.iloc[wrong[0]]
        raise UserError(f"{name}: column '{column}' is '{cell}' in row {wrong[0]}, which is not a finite number")
    if len(missing):
        raise UserError(f"{name}: row {missing[0]} has no value in column '{column}'")
    return values


def _left_out(name: str, column: str, frame: pd.DataFrame) -> bool:
    if reason := index_like(column, numbers(frame, column)):
        say(f"{name}: column '{column}' {reason} and is left out; name it in feature_columns to use it")
    return reason is not None
