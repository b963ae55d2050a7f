"""Tables of numbers with a target, read from a file or a package, and new rows without a target."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import pandas as pd
import torch

from plcourse.console import say
from plcourse.data import keys_of, permutation
from plcourse.data.features import Standardizer, feature_matrix, is_index, require_columns, row_ids
from plcourse.data.frames import as_text, numbers, read_frame
from plcourse.data.names import listed
from plcourse.data.provenance import Identities, row_hashes
from plcourse.errors import UserError, nearest

SOURCES = ("diabetes", "autompg", "table_file")
_AUTOMPG = ("cylinders", "displacement", "horsepower", "weight", "acceleration", "model_year", "origin")


@dataclass(frozen=True)
class Columns:
    """Which column of a table is what."""

    target: str  # what to predict
    group: str | None = None  # whose equal values stay on one side of every split
    features: list[str] | None = None  # what to learn from; None for all other columns that do not just count the rows
    id: str | None = None  # the rows' names; None numbers the rows


@dataclass
class Rows:
    """Rows made into batches."""

    features: torch.Tensor  # float32 [N, F], standardized
    ids: list[str]
    labels: torch.Tensor | None = None  # float32 [N], in the target's own units; None if they are unknown
    identities: Identities | None = None  # the hashes of the rows; None for new rows

    def __len__(self) -> int:
        return len(self.ids)

    def fetch(self, indices: np.ndarray, epoch: int) -> dict[str, Any]:
        """The batch of the rows at `indices` (int64 [B]), the same in every epoch."""
        at = torch.from_numpy(indices)
        batch = {"features": self.features[at], "id": [self.ids[i] for i in indices.tolist()]}
        return batch if self.labels is None else {**batch, "label": self.labels[at]}


class Scale(TypedDict):
    """The statistics of a training part, as a checkpoint contains them."""

    mean: list[float]
    std: list[float]
    target_mean: float
    target_std: float
    features: list[str]


class Table:
    """A table of numbers.

    Args:
        features: float64 [N, F].
        names: the column of each feature.
        targets: float64 [N].
        ids: N distinct names.
        groups: N values, equal for rows that must stay together; None keeps only equal rows together.

    Attributes:
        units: int64 [N], equal for rows that must stay together.
        hashes: uint64 [N], equal for equal rows of one group.
    """

    def __init__(
        self,
        features: np.ndarray,
        names: Sequence[str],
        targets: np.ndarray,
        ids: list[str],
        groups: Sequence[str] | None = None,
    ) -> None:
        self.features, self.names, self.targets, self.ids = features, list(names), targets, ids
        rows = np.column_stack([features, targets])
        self.hashes = row_hashes(rows)
        if groups is None:
            _, units = np.unique(rows, axis=0, return_inverse=True)
        else:
            _, units = np.unique(np.array(groups, object), return_inverse=True)
            # equal rows of two groups may be on different sides of a split
            self.hashes = row_hashes(np.column_stack([self.hashes, keys_of(groups)]))
        self.units = units.reshape(-1).astype(np.int64)

    @classmethod
    def read(cls, source: str, path: str | None, columns: Columns, known: Sequence[str] | None = None) -> "Table":
        """Reads a source.

        Args:
            source: one of `SOURCES`.
            path: the file of a ``table_file``.
            columns: which column is what.
            known: the features that a model was trained on, in order; None if there is no model yet.

        Raises:
            UserError: an unknown source, a missing file, column or value, or a column that is not numeric.
        """
        frame, name = _frame(source, path), path or source
        features, roles = known or columns.features, (columns.target, columns.group, columns.id)
        require_columns(name, frame, (*roles, *(features or ())))
        others = [column for column in map(str, frame) if column not in roles]
        if known and columns.features is None and (further := [column for column in others if column not in known]):
            say(f"{name}: the model was trained without {listed(further)}; left out")
        chosen = list(features or [column for column in others if not is_index(name, column, numbers(frame, column))])
        if not chosen:
            raise UserError(f"{name} has no column to learn from; it has {', '.join(frame)}")
        ids = row_ids(name, frame, columns.id, source)
        groups = None
        if columns.group is not None:
            cells = as_text(frame, columns.group)
            if cells.isna().any():
                raise UserError(f"{name}, row {np.flatnonzero(cells.isna())[0]}: column '{columns.group}' is missing")
            groups = cells.tolist()
        values, targets = _values(name, frame, chosen), _values(name, frame, [columns.target])[:, 0]
        return cls(values, chosen, targets, ids, groups)

    def choose(self, size: int | float, seed: int) -> np.ndarray:
        """Sorted numbers of about `size` rows, in whole units; a UserError if no row would be left to train on."""
        count = round(size * len(self.units)) if isinstance(size, float) else size
        sizes = np.bincount(self.units)
        order = permutation(seed, 0, len(sizes))
        taken = order[: int(np.searchsorted(np.cumsum(sizes[order]), count)) + (count > 0)]
        if len(taken) >= len(sizes):
            raise UserError(f"test_size={size} leaves none of {len(self.units)} rows to train on; make it smaller")
        return np.flatnonzero(np.isin(self.units, taken))


def new_rows(path: str, scale: Scale, id_column: str | None) -> Rows:
    """The rows of a file without a target, standardized as in training; other columns are ignored.

    Raises:
        UserError: a missing file or column, or a cell that is missing or not a finite number.
    """
    frame, names = read_frame(path), scale.get("features")
    if names is None:  # a checkpoint of an older version
        raise UserError("the checkpoint does not say which columns it was trained on; train again with this version")
    require_columns(path, frame, (*names, id_column))
    if frame.empty:
        raise UserError(f"the table '{path}' has no rows")
    ids = row_ids(path, frame, id_column, Path(path).stem)
    return Rows(standardize(_values(path, frame, names), names, scale), ids)


def standardize(features_NF: np.ndarray, names: Sequence[str], scale: Scale) -> torch.Tensor:
    """Features as float32 [N, F], with the means and standard deviations of the training part."""
    return Standardizer(names, np.array(scale["mean"]), np.array(scale["std"]))(features_NF)


def _frame(source: str, path: str | None) -> pd.DataFrame:
    if source == "diabetes":
        from sklearn.datasets import load_diabetes

        return load_diabetes(as_frame=True, scaled=False)["frame"]  # pyright: ignore[reportCallIssue, reportArgumentType]  (a Bunch, for the stubs a tuple)
    if source == "autompg":
        from mlxtend.data import autompg_data

        features, target = autompg_data()
        return pd.DataFrame(features[:, : len(_AUTOMPG)], columns=list(_AUTOMPG)).assign(target=target)
    if source != "table_file":
        raise UserError(f"unknown source '{source}'; the sources are {', '.join(SOURCES)}{nearest(source, SOURCES)}")
    if path is None:
        raise UserError("table_file needs a file; give --data.init_args.path")
    return read_frame(path)


def _values(name: str, frame: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """The numbers of some columns, float64 [N, F]; a UserError if a cell is missing or not a finite number."""
    values, wrong = feature_matrix(frame, columns)
    if not wrong:
        return values
    for column in columns:
        cells = pd.Series(frame[column])
        if len(feature_matrix(frame, [column])[1]) == len(frame) and cells.notna().any():
            raise UserError(
                f"column '{column}' of {name} is not numeric (it holds '{cells.dropna().iloc[0]}'): encode it, "
                "leave it out, name it as group or id_column, or list feature_columns without it"
            )
    row = min(wrong)
    raise UserError(f"{name}, row {row}: {wrong[row]}")
