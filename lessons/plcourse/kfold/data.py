"""Tables for regression in dict batches: ``features`` float32 [B, F], ``label`` float32 [B], ``id`` B strings."""

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch

from plcourse.core.data import BatchLoader, Process, eval_loader, permutation, train_loader
from plcourse.core.data.features import Standardiser, index_like
from plcourse.core.data.frames import as_text, numbers, read_frame
from plcourse.core.data.names import listed, restore_first
from plcourse.core.errors import UserError, nearest
from plcourse.core.screen import say

SOURCES = ("diabetes", "autompg", "table_file")
_AUTOMPG = ("cylinders", "displacement", "horsepower", "weight", "acceleration", "model_year", "origin")


class TableData(pl.LightningDataModule):
    """The rows of a table, standardised by its training part; satisfies `Splittable`.

    Args:
        source: ``diabetes`` (scikit-learn: 442 patients, 10 features, disease progression), ``autompg`` (mlxtend: 392
            cars, 7 features, miles per gallon), or ``table_file``.
        path: a Parquet, CSV or TSV file, for ``table_file``.
        target: the column to predict; the two data sets have theirs.
        group: a column whose equal values stay on one side of every split, and which is no feature; None for none.
        batch_size: rows per batch and process.
        test_size: rows held out for the test (int), or their share (float below 1); whole groups.
        split_seed: another seed gives another test part.
    """

    def __init__(
        self,
        source: str = "diabetes",
        path: str | None = None,
        target: str = "target",
        group: str | None = None,
        batch_size: int = 32,
        test_size: int | float = 0.2,
        split_seed: int = 0,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.source, self.path, self.target, self.group = source, path, target, group
        self.batch_size, self.test_size, self.split_seed = batch_size, test_size, split_seed
        self._parts: dict[str, np.ndarray] | None = None
        self._restored: dict[str, Any] | None = None

    def setup(self, stage: str) -> None:
        """Reads the table, so that its errors come early."""
        restore_first(self)
        _ = self.table

    @cached_property
    def table(self) -> "Table":
        """The whole table."""
        features = None if self._restored is None else self._restored.get("features")
        return Table.read(self.source, self.path, self.target, self.group, features)

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """Sorted row numbers by ``train``, ``val``, ``test``; all but the test part train until `with_split`."""
        if self._parts is None:
            test = self.table.choose(self.test_size, self.split_seed)
            pool = np.setdiff1d(np.arange(len(self.table.targets)), test)
            self._parts = {"train": pool, "val": pool[:0], "test": test}
        return self._parts

    @property
    def scale(self) -> dict[str, Any]:
        """``mean`` and ``std`` of the ``features``, ``target_mean`` and ``target_std``, of the training part alone."""
        if self._restored is not None:
            return self._restored
        features, targets = self.table.features[self.parts["train"]], self.table.targets[self.parts["train"]]
        standardise, target = Standardiser.fit(features, self.table.names), Standardiser.fit(targets[:, None], [""])
        return {
            "mean": standardise.mean.tolist(),
            "std": standardise.std.tolist(),
            "target_mean": float(target.mean[0]),
            "target_std": float(target.std[0]),
            "features": self.table.names,
        }

    @property
    def ids(self) -> list[str]:
        """The rows for training or validation, see `Splittable`."""
        return [f"{self.source}/{row:05d}" for row in self._pool.tolist()]

    @property
    def labels(self) -> np.ndarray:
        """float64, the target of each of `ids`: values, not classes."""
        return self.table.targets[self._pool]

    @property
    def groups(self) -> np.ndarray | None:
        """int64, equal for rows of one group, or for equal rows; None where each stands alone."""
        units = self.table.units[self._pool]
        return None if len(np.unique(units)) == len(units) else units

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each part: ``n_train``, ``n_val`` and ``n_test``."""
        return {f"n_{name}": len(rows) for name, rows in self.parts.items()}

    def with_split(self, train_ids: Sequence[str], val_ids: Sequence[str]) -> Self:
        """The same table with other training and validation parts, standardised anew.

        Groups are kept together by whoever chooses the ids, such as `KFoldLoop`.

        Raises:
            ValueError: a row in both parts, or one of the test part.
        """
        known = set(self.ids)
        train, val = (np.sort(np.array([_row_of(name) for name in names], np.int64)) for names in (train_ids, val_ids))
        if len(np.intersect1d(train, val)) or not known.issuperset([*train_ids, *val_ids]):
            raise ValueError("a row is in train and val, or in the test part: take each of `ids` at most once")
        anew = copy.copy(self)
        anew._parts = {"train": train, "val": val, "test": self.parts["test"]}
        anew._restored, anew.trainer = None, None
        return anew

    def train_dataloader(self) -> BatchLoader:
        """Shuffled; each batch has a ``rank_weight``."""
        return train_loader(self._rows("train"), self.batch_size, Process.of(self.trainer))

    def val_dataloader(self) -> BatchLoader:
        """Each validation row once."""
        return self._eval_loader("val")

    def test_dataloader(self) -> BatchLoader:
        """Each test row once."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> BatchLoader:
        """Each test row once."""
        return self._eval_loader("test")

    def state_dict(self) -> dict[str, Any]:
        """What new rows are standardised with."""
        return self.scale

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what the checkpoint was trained with: features are chosen and ordered by their names.

        Raises:
            UserError: the table is open already and lacks a column.
        """
        if "table" in self.__dict__ and self.table.names != state_dict.get("features", self.table.names):
            # which rows are for the test follows from the content of the rows, so they are chosen anew
            del self.table
            self._parts = None
        self._restored = state_dict

    @property
    def _pool(self) -> np.ndarray:
        return np.sort(np.concatenate([self.parts["train"], self.parts["val"]]))

    def _rows(self, part: str) -> "Rows":
        rows, scale = self.parts[part], self.scale
        standardise = Standardiser(self.table.names, np.array(scale["mean"]), np.array(scale["std"]))
        ids = [f"{self.source}/{row:05d}" for row in rows.tolist()]
        targets = torch.from_numpy(self.table.targets[rows]).float()
        return Rows(standardise(self.table.features[rows]), targets, ids)

    def _eval_loader(self, part: str) -> BatchLoader:
        return eval_loader(self._rows(part), self.batch_size, Process.of(self.trainer))


def _row_of(name: str) -> int:
    return int(name.rpartition("/")[2])


class Rows:
    """The rows of one part, made into batches.

    Args:
        features: float32 [N, F], standardised.
        labels: float32 [N], in the target's own units.
        ids: N names.
    """

    def __init__(self, features: torch.Tensor, labels: torch.Tensor, ids: list[str]) -> None:
        self.features, self.labels, self.ids = features, labels, ids

    def __len__(self) -> int:
        return len(self.ids)

    def fetch(self, indices: np.ndarray, epoch: int) -> dict[str, Any]:
        """The batch of the rows at ``indices`` (int64 [B]); the epoch changes nothing."""
        at = torch.from_numpy(indices)
        return {"features": self.features[at], "label": self.labels[at], "id": [self.ids[i] for i in indices.tolist()]}


class Table:
    """A table of numbers.

    Attributes:
        features: float64 [N, F].
        names: the column of each feature.
        targets: float64 [N].
        units: int64 [N], equal for rows that must not be separated.
    """

    def __init__(
        self, features: np.ndarray, names: Sequence[str], targets: np.ndarray, groups: np.ndarray | None
    ) -> None:
        self.features, self.names, self.targets = features, list(names), targets
        whole = np.column_stack([features, targets]) if groups is None else groups
        self.units = np.unique(whole, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)

    @classmethod
    def read(
        cls, source: str, path: str | None, target: str, group: str | None, features: Sequence[str] | None = None
    ) -> "Table":
        """Reads a source.

        Args:
            source: one of `SOURCES`.
            path: the file of a ``table_file``.
            target: the column to predict.
            group: a column that is no feature; None for none.
            features: the columns that a model was trained on, in their order; None takes all that are nothing else.

        Raises:
            UserError: no such source, file or column, a value that is missing, or a column that is no number.
        """
        frame = _frame(source, path)
        for column in (target, *([group] if group else []), *(features or [])):
            if column not in frame:
                raise UserError(f"{source} has no column '{column}'{nearest(column, frame.columns)}")
        own = [name for name in map(str, frame) if name != group]
        known = own if features is None else [*features, target]
        if further := [name for name in own if name not in known]:
            say(f"{path or source}: the model was trained without {listed(further)}; left out")
        values = {name: _values(source, name, frame) for name in known}
        names = list(features or ())
        if features is None:
            names = [name for name in values if name != target and not _left_out(source, name, values[name])]
        groups = None
        if group is not None:
            cells = as_text(frame, group)
            if cells.isna().any():
                row = int(np.flatnonzero(cells.isna())[0])
                raise UserError(f"{source}: row {row} has no value in column '{group}'")
            groups = cells.astype("category").cat.codes.to_numpy()
        return cls(np.column_stack([values[name] for name in names]), names, values[target], groups)

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


def _values(source: str, name: str, frame: pd.DataFrame) -> np.ndarray:
    """The numbers of a column, float64 [N]; ``True`` and ``False`` count as 1 and 0.

    Raises:
        UserError: a cell that is missing, or no finite number.
    """
    values, cells = numbers(frame, name), as_text(frame, name)
    missing = cells.isna().to_numpy()
    if np.isnan(values[~missing]).all():
        values = cells.str.lower().map({"true": 1.0, "false": 0.0}).to_numpy(np.float64)
    if index_like(name, values):
        return values
    if missing.any():
        raise UserError(f"{source}: row {np.flatnonzero(missing)[0]} has no value in column '{name}'")
    wrong = np.flatnonzero(~np.isfinite(values))
    if len(wrong) == len(values):
        raise UserError(f"column '{name}' of {source} is not numeric: encode it, leave it out, or name it as group")
    if len(wrong):
        cell = cells.iloc[wrong[0]]
        raise UserError(f"{source}: column '{name}' is '{cell}' in row {wrong[0]}, which is not a finite number")
    return values


def _left_out(source: str, name: str, values: np.ndarray) -> bool:
    if reason := index_like(name, values):
        say(f"{source}: column '{name}' {reason} and is no feature")
    return reason is not None
