"""Tables for regression: batches of ``features`` float32 [B, F], ``label`` float32 [B] and ``id`` (B strings)."""

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import pytorch_lightning as pl
import torch

from plcourse.data import BatchLoader, Process, eval_loader, train_loader
from plcourse.data.features import Standardizer
from plcourse.data.names import restore_first
from plcourse.data.provenance import Identities
from plcourse.kfold.table import Columns, Rows, Scale, Table, new_rows, standardize


class TableData(pl.LightningDataModule):
    """The rows of a table, standardized with the training part; satisfies `Splittable`.

    Args:
        source: ``diabetes`` (scikit-learn: 442 patients, 10 features, disease progression), ``autompg`` (mlxtend: 392
            cars, 7 features, miles per gallon), or ``table_file``.
        path: a Parquet, CSV or TSV file, for ``table_file``.
        target: the column to predict; the two data sets call theirs ``target``.
        group: a column that is no feature, whose equal values stay together in every split; None for none.
        batch_size: rows per batch and process.
        test_size: rows for the test (int), or their fraction (float below 1), in whole groups.
        split_seed: another seed gives another test part.
        feature_columns: the columns to learn from; None takes all other columns that do not just count the rows.
        id_column: a column of names, which is no feature; None numbers the rows.
        predict_path: a file of new rows to predict, which needs no target; None predicts the test part.
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
        feature_columns: list[str] | None = None,
        id_column: str | None = None,
        predict_path: str | None = None,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.source, self.path, self.predict_path = source, path, predict_path
        self.columns = Columns(target, group, feature_columns, id_column)
        self.batch_size, self.test_size, self.split_seed = batch_size, test_size, split_seed
        self._restored: Scale | None = None

    def setup(self, stage: str) -> None:
        """Reads the table, so that its errors come early; the prediction of new rows needs only the checkpoint."""
        restore_first(self)
        if not (stage == "predict" and self.predict_path):
            _ = self.table

    @cached_property
    def table(self) -> Table:
        """The whole table."""
        features = None if self._restored is None else self._restored.get("features")
        return Table.read(self.source, self.path, self.columns, features)

    @cached_property
    def parts(self) -> dict[str, np.ndarray]:
        """Sorted row numbers by ``train``, ``val``, ``test``; ``val`` is empty until `with_split`."""
        test = self.table.choose(self.test_size, self.split_seed)
        train = np.setdiff1d(np.arange(len(self.table.ids)), test)
        return {"train": train, "val": train[:0], "test": test}

    @property
    def scale(self) -> Scale:
        """The statistics of the training part, or those of the checkpoint."""
        if self._restored is not None:
            return self._restored
        rows, names = self.parts["train"], self.table.names
        features = Standardizer.fit(self.table.features[rows], names)
        target = Standardizer.fit(self.table.targets[rows, None], ["target"])
        return {
            "mean": features.mean.tolist(),
            "std": features.std.tolist(),
            "target_mean": float(target.mean[0]),
            "target_std": float(target.std[0]),
            "features": names,
        }

    @property
    def terms(self) -> dict[str, Any]:
        """The source and how its rows are split, in plain types."""
        return {name: getattr(self, name) for name in ("source", "path", "test_size", "split_seed")}

    @property
    def ids(self) -> list[str]:
        """The ids of the rows for training or validation; see `Splittable`."""
        return [self.table.ids[row] for row in self._pool.tolist()]

    @property
    def labels(self) -> np.ndarray:
        """float64, the target of each of `ids`."""
        return self.table.targets[self._pool]

    @property
    def groups(self) -> np.ndarray | None:
        """int64, equal for rows of one group or, without groups, for equal rows; None if all differ."""
        units = self.table.units[self._pool]
        return None if len(np.unique(units)) == len(units) else units

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each part: ``n_train``, ``n_val`` and ``n_test``."""
        return {f"n_{name}": len(rows) for name, rows in self.parts.items()}

    def with_split(self, train_ids: Sequence[str], val_ids: Sequence[str]) -> Self:
        """The same table with another training and validation part, standardized again.

        The caller, such as `KFoldLoop`, keeps groups together. A row in both parts, or one of the test part, is a
        ValueError.
        """
        row_of = {self.table.ids[row]: row for row in self._pool.tolist()}
        if not set(train_ids).isdisjoint(val_ids) or not row_of.keys() >= {*train_ids, *val_ids}:
            raise ValueError("a row is in train and val, or in the test part; use each of `ids` at most once")
        train, val = (np.sort(np.array([row_of[name] for name in names], np.int64)) for names in (train_ids, val_ids))
        resplit = copy.copy(self)
        resplit.parts = {"train": train, "val": val, "test": self.parts["test"]}
        resplit._restored, resplit.trainer = None, None
        return resplit

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
        """The rows of the new file, or each test row once."""
        if self.predict_path is None:
            return self._eval_loader("test")
        rows = new_rows(self.predict_path, self.scale, self.columns.id)
        return eval_loader(rows, self.batch_size, Process.of(self.trainer))

    def raw_inputs(self, ids: Sequence[str]) -> list[torch.Tensor]:
        """The features of rows before they were standardized, float64 [F] each."""
        position = {each: row for row, each in enumerate(self.table.ids)}
        return list(torch.from_numpy(self.table.features[[position[each] for each in ids]]))

    def state_dict(self) -> Scale:  # pyright: ignore[reportIncompatibleMethodOverride]  (a dict with fixed keys)
        """What new rows are standardized with."""
        return self.scale

    def load_state_dict(self, state_dict: Scale) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Restores what the checkpoint was trained with; features are chosen and ordered by their names."""
        if "table" in self.__dict__ and self.table.names != state_dict.get("features", self.table.names):
            # the test rows follow from the contents of all rows, so they are chosen again
            del self.table
            self.__dict__.pop("parts", None)
        self._restored = state_dict

    @property
    def _pool(self) -> np.ndarray:
        return np.sort(np.concatenate([self.parts["train"], self.parts["val"]]))

    def _rows(self, part: str) -> Rows:
        rows, table = self.parts[part], self.table
        ids = [table.ids[row] for row in rows.tolist()]
        targets, identities = torch.from_numpy(table.targets[rows]).float(), Identities(table.hashes[rows], ids)
        return Rows(standardize(table.features[rows], table.names, self.scale), ids, targets, identities)

    def _eval_loader(self, part: str) -> BatchLoader:
        return eval_loader(self._rows(part), self.batch_size, Process.of(self.trainer), part=part)
