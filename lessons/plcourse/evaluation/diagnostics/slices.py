"""Where the model is worst: by class, and by every column of metadata."""

from pathlib import Path

import numpy as np
import pandas as pd

from plcourse.data.frames import as_text, numbers, read_frame
from plcourse.errors import UserError
from plcourse.evaluation.scores import Diagnostic, Finding, Scores
from plcourse.stats.intervals import wilson

_VALUES = 10  # a numeric column with more distinct values is cut into quarters


class WorstSlices(Diagnostic):
    """The slices with the lowest accuracy, each with a Wilson interval (Wilson 1927).

    They are sorted by the upper end of the interval, so that a few unlucky samples do not make a worst slice. Among
    many slices the worst looks bad by chance alone: check it on new data.

    Args:
        metadata: a Parquet, CSV or TSV file with a column ``id`` and one row per sample, in addition to the metadata of
            the data module.
        n_slices: how many to print; the JSON has all of them.
        min_samples: smallest slice that counts, 1 or more.
        confidence: coverage of the intervals, between 0 and 1.
    """

    name = "slices"

    def __init__(
        self, metadata: str | None = None, n_slices: int = 5, min_samples: int = 10, confidence: float = 0.95
    ) -> None:
        if min_samples < 1 or not 0 < confidence < 1:
            raise ValueError(f"min_samples={min_samples}, confidence={confidence}: give 1 or more, and 0 to 1")
        self.metadata, self.n_slices, self.min_samples, self.confidence = metadata, n_slices, min_samples, confidence

    def __call__(self, scores: Scores, folder: Path) -> Finding:
        """Computes the section ``slices``."""
        columns: dict[str, np.ndarray] = {"class": np.array(scores.label_names)[scores.labels], **scores.metadata}
        if self.metadata is not None:
            columns |= _read(self.metadata, scores.ids)
        found = []
        for column, values in columns.items():
            for value, right in pd.Series(scores.correct).groupby(_cut(values), sort=True):
                if len(right) >= self.min_samples:
                    low, high = wilson(int(right.sum()), len(right), self.confidence)
                    entry = {"column": column, "value": str(value), "n": len(right), "accuracy": float(right.mean())}
                    found.append({**entry, "low": low, "high": high})
        found.sort(key=lambda entry: (entry["high"], entry["accuracy"]))
        lines = [
            f"  at most {entry['high']:.3f}: {entry['column']} = {entry['value']}, accuracy {entry['accuracy']:.3f} of "
            f"{entry['n']} samples (at least {entry['low']:.3f})"
            for entry in found[: self.n_slices]
        ]
        head = f"worst slices, by the upper end of the {100 * self.confidence:g} % interval of their accuracy:"
        return {"overall": float(scores.correct.mean()), "slices": found}, [head, *lines] if lines else []


def _read(path: str, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Reads the columns of a metadata file in the order of the ids."""
    frame = read_frame(path)
    if "id" not in frame:
        raise UserError(f"{path} has no column 'id'; it has {', '.join(frame)}")
    rows = frame.assign(id=as_text(frame, "id")).drop_duplicates("id").set_index("id")
    known = rows.reindex([str(name) for name in ids])
    if known.isna().all(axis=None):
        raise UserError(f"{path}: no id matches a sample; the ids of the samples look like {ids[0]!r}")
    return {str(column): known[column].to_numpy() for column in known}


def _cut(values: np.ndarray) -> np.ndarray:
    """The slice name of each value [N]: the value as text or, for numbers with many values, its quarter."""
    column = pd.DataFrame({"value": pd.Series(values)})
    text, value = as_text(column, "value"), pd.Series(numbers(column, "value"))
    if np.isfinite(value[text.notna()]).all() and value.nunique() > _VALUES:
        text = pd.Series(pd.qcut(value, 4, duplicates="drop")).astype(object).where(text.notna())
    return text.fillna("missing").astype(str).to_numpy()
