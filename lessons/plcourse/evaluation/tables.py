"""Tables of features with a label column: read, checked, split, standardized, and made into batches.

A *feature* is a numeric column, or one of the buckets that the words of a text column are hashed into (Weinberger et
al. 2009, "Feature Hashing for Large Scale Multitask Learning", equation 1), which needs no vocabulary. All columns that
are neither features nor label nor id are metadata: they say which slice of the data a row belongs to, and no model sees
them.

Shapes: N rows of the table, B rows of a batch, D features.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from plcourse.console import say
from plcourse.data import OnError, SourceSplits
from plcourse.data.features import Standardizer, feature_matrix, numeric_columns, require_columns, row_ids
from plcourse.data.frames import as_text, numbers, read_frame
from plcourse.data.names import adopt_classes, class_names, listed
from plcourse.data.provenance import Identities, row_hashes
from plcourse.errors import UserError

PACKAGED = ("breast_cancer", "wine")


@dataclass
class Schema:
    """Which column of a table is what."""

    features: list[str] | None = None  # numeric columns; None takes those that `numeric_columns` finds
    label: str = "label"  # the column of the classes
    id: str | None = None  # the column of the rows' names; None numbers the rows
    text: str | None = None  # a column of texts
    buckets: int = 1024  # the number of features that the words of a text are hashed into


class TableSplits(SourceSplits):
    """Training, validation and test part of a table: a file, or one of `PACKAGED`; see `SourceSplits`."""

    fitted = ("_fitted",)

    def __init__(
        self,
        path: str,
        schema: Schema,
        on_error: OnError = "raise",
        val_size: int | float = 0.1,
        test_size: int | float = 0.2,
        split_seed: int = 0,
    ) -> None:
        super().__init__(val_size, test_size, split_seed)
        self.path, self.schema = path, schema
        self.on_error: OnError = on_error

    @cached_property
    def source(self) -> "TableSource":
        """The table."""
        frame = packaged_frame(self.path) if self.path in PACKAGED else read_frame(self.path)
        if self._restored is not None:
            _tell_left_out(self.path, frame, self._restored)
        source = TableSource(self.path, frame, self.schema, self.on_error)
        if source.rejected:
            first, reason = source.rejected[0]
            say(f"{source.name}: {len(source.rejected)} rows left out; the first is {first}: {reason}")
        if self._restored is not None:
            adopt_classes(source, self._restored["label_names"])
        return source

    @cached_property
    def _fitted(self) -> Standardizer:
        return Standardizer.fit(self.source.features[self.parts["train"]], feature_names(self.schema))

    @property
    def normalization(self) -> Standardizer:
        """The checkpoint's, or one fitted to the training rows."""
        if self._restored is None:
            return self._fitted
        mean, std = np.array(self._restored["mean"]), np.array(self._restored["std"])
        return Standardizer(feature_names(self.schema), mean, std)

    def raw_inputs(self, ids: Sequence[str]) -> list[torch.Tensor]:
        """The features of rows before they were standardized, float64 [D] each."""
        return list(torch.from_numpy(self.source.features[[self.position[each] for each in ids]]))

    @property
    def terms(self) -> dict[str, Any]:
        """The file and how its rows are split, in plain types."""
        return {"root": self.path, **self.split_terms}

    def state_dict(self) -> dict[str, Any]:
        """What new rows need, in plain types."""
        if self._restored is not None:
            return self._restored
        mean, std = self.normalization.mean, self.normalization.std
        known = {"label_names": list(self.label_names), "columns": self.source.columns}
        return {"mean": mean.tolist(), "std": std.tolist(), "features": list(self.schema.features or []), **known}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what a checkpoint was trained with; features are chosen and ordered by the names of its columns.

        Raises:
            UserError: the table is already open and lacks a column, or has a class that the model does not know.
        """
        if self.schema.features != state["features"]:
            # rows are split by the content of their features, so a table that is already open is split again
            for opened in ("source", "parts", "position"):
                vars(self).pop(opened, None)
        self._restored = state
        self.schema.features = list(state["features"])
        if "source" in self.__dict__:
            adopt_classes(self.source, state["label_names"])

    def dataset_of(self, part: str, augment: object = None) -> "TableDataset":
        """The rows of a part; tables cannot be augmented."""
        if augment:
            raise UserError("data.augment changes images; leave it out for a table")
        return TableDataset(self.source, self.parts[part], self.normalization)


class TableSource:
    """A labeled table in memory: features float64 [N, D], texts or None, and metadata; see `plcourse.data.Labeled`.

    ``name`` is the file or a packaged table. The features of ``schema`` are filled in here if it has none. With
    ``on_error="skip"``, rows that cannot be used are left out and listed; ``raise`` stops at the first.

    Raises:
        UserError: a missing column, fewer than two classes, or a row that cannot be used.
    """

    parts: dict[str, np.ndarray] | None = None

    def __init__(self, name: str, frame: pd.DataFrame, schema: Schema, on_error: OnError) -> None:
        require_columns(name, frame, (schema.label, schema.id))
        ids = row_ids(name, frame, schema.id, Path(name).stem)
        taken = {schema.label, schema.id, schema.text}
        if schema.features is None:
            schema.features = numeric_columns(name, frame, taken)
            if not schema.features and schema.text is None:
                raise UserError(f"{name} has no column of numbers to learn from; it has {', '.join(map(str, frame))}")
        features, wrong = to_features(name, frame, schema)
        labels = as_text(frame, schema.label)
        for row in np.flatnonzero(labels.isna() | (labels.str.strip() == "")).tolist():
            wrong.setdefault(row, f"column '{schema.label}' is missing")
        if wrong and on_error == "raise":
            row = min(wrong)
            raise UserError(f"{name}, row {row}: {wrong[row]}; --data.init_args.on_error=skip leaves such rows out")
        keep = np.setdiff1d(np.arange(len(frame)), list(wrong))
        self.name, self.schema, self.columns = name, schema, [str(column) for column in frame]
        self.ids = [ids[i] for i in keep] if wrong else ids
        self.rejected = [(ids[row], wrong[row]) for row in sorted(wrong)]
        classes = labels.iloc[keep]
        self.label_names: list[str] = class_names(name, classes)
        if len(self.label_names) < 2:
            n = len(self.label_names)
            raise UserError(f"{name}: column '{schema.label}' holds {n} class; it must hold 2 or more")
        self.labels = classes.map({label: i for i, label in enumerate(self.label_names)}).to_numpy(np.int64)
        self.features = features[keep]
        other = [column for column in frame if column not in taken and column not in schema.features]
        self.texts = None if schema.text is None else as_text(frame, schema.text).iloc[keep].tolist()
        self.metadata = frame[other].iloc[keep].reset_index(drop=True)

    @property
    def hashes(self) -> np.ndarray:
        """uint64 [N], equal for rows with equal features."""
        return self._hashes

    @cached_property
    def _hashes(self) -> np.ndarray:
        with np.errstate(over="ignore"):
            hashes = row_hashes(self.features.astype(np.float32))
        near = np.flatnonzero(pd.Series(hashes).duplicated(keep=False))
        exact = pd.Series(row_hashes(self.features[near]))
        differ = exact.groupby(hashes[near]).transform("nunique").to_numpy() > 1  # they are only equal in float32
        hashes[near[differ]] = exact[differ]
        return hashes


@dataclass
class TableDataset:
    """The rows of one part as batches: ``features`` float32 [B, D], ``label`` int64 [B], ``id``, ``metadata``.

    If the table has a column of texts, batches also contain them as ``written``.
    """

    source: TableSource
    indices: np.ndarray  # int64, the part's rows
    standardize: Standardizer  # fitted to the training rows

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def identities(self) -> Identities:
        """The hashes of the rows."""
        return Identities(self.source.hashes[self.indices], [self.source.ids[i] for i in self.indices.tolist()])

    def fetch(self, indices: np.ndarray, epoch: int) -> dict[str, Any]:
        """The batch of the part's rows at `indices` (int64 [B]), the same in every epoch."""
        rows, source = self.indices[indices], self.source
        written = {} if source.texts is None else {"written": [source.texts[i] for i in rows.tolist()]}
        return {
            **written,
            "features": self.standardize(source.features[rows]),
            "label": torch.from_numpy(source.labels[rows]),
            "id": [source.ids[i] for i in rows.tolist()],
            "metadata": {str(name): source.metadata[name].to_numpy()[rows] for name in source.metadata},
        }


def packaged_frame(name: str) -> pd.DataFrame:
    """One of scikit-learn's tables, with a column ``label`` of class names."""
    from sklearn import datasets  # over a second to import

    bunch: Any = getattr(datasets, f"load_{name}")(as_frame=True)
    return bunch.data.assign(label=bunch.target_names[bunch.target])


def to_features(name: str, frame: pd.DataFrame, schema: Schema) -> tuple[np.ndarray, dict[int, str]]:
    """The features float64 [N, D] of all rows, and the reason by number for each row that cannot be used.

    Numeric columns are 0 in such rows. A column that the table `name` does not have is a UserError.
    """
    assert schema.features is not None
    require_columns(name, frame, [*schema.features, schema.text])
    values_ND, wrong = feature_matrix(frame, schema.features)
    if schema.text is None:
        return values_ND, wrong
    texts = as_text(frame, schema.text)
    for row in np.flatnonzero(texts.isna()).tolist():
        wrong.setdefault(row, f"column '{schema.text}' is missing")
    from sklearn.feature_extraction.text import HashingVectorizer

    hashed: Any = HashingVectorizer(n_features=schema.buckets, ngram_range=(1, 2)).transform(texts.fillna(""))
    return np.hstack([values_ND, hashed.astype(np.float32).toarray()]), wrong


def feature_names(schema: Schema) -> list[str]:
    """The name of each of the D features: the numeric columns, then the buckets of the text."""
    buckets = schema.buckets if schema.text is not None else 0
    return [*(schema.features or []), *(f"{schema.text}, bucket {i}" for i in range(buckets))]


def _tell_left_out(name: str, frame: pd.DataFrame, state: dict[str, Any]) -> None:
    """Says which numeric columns of a table the model was not trained with."""
    known = state.get("columns", state["features"])
    others = [column for column in map(str, frame) if column not in known]
    if further := [column for column in others if np.isfinite(numbers(frame, column)).any()]:
        say(f"{name}: the model was trained without {listed(further)}; left out")
