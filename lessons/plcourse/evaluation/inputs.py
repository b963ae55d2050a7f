"""New inputs to predict: image files or the rows of tables. Inputs that cannot be read are quarantined.

An input is read when its batch is needed, so that a million files do not delay the start. A batch has one row per
input; an input that cannot be read becomes zeros, and ``quarantined`` lists its row and the reason.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

from plcourse.data.features import Standardizer, require_columns
from plcourse.data.frames import as_text, read_frame, readable, to_frame
from plcourse.data.image_folder import UnreadableImage, read_image
from plcourse.data.images import Normalization
from plcourse.data.resize import Resize
from plcourse.evaluation.tables import Schema, to_features


class ImageInputs:
    """Image files as batches: ``image`` float32 [B, C, H, W], ``id`` (the path as given), ``quarantined``.

    Args:
        paths: the files.
        shape: (channels, height, width) of the model's training images.
        normalization: that of the training images.
        resize: the rule by which the training images were resized.
        depth: the bits of 16-bit files; see `FolderSource`.
    """

    def __init__(
        self,
        paths: Sequence[str],
        shape: tuple[int, int, int],
        normalization: Normalization,
        resize: Resize = "crop",
        depth: int = 0,
    ) -> None:
        self.paths, self.shape, self.depth = list(paths), shape, depth
        self.resize: Resize = resize
        self._mean_C11 = torch.tensor(normalization.mean)[:, None, None]
        self._std_C11 = torch.tensor(normalization.std)[:, None, None]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def fingerprint(self) -> str:
        """A hash of the names, sizes and times of the files, but not of their contents."""
        return _fingerprint(self.paths)

    def fetch(self, indices: np.ndarray, epoch: int) -> dict[str, Any]:
        """The batch of the files at `indices` (int64 [B]), the same in every epoch."""
        names = [self.paths[i] for i in indices.tolist()]
        pixels_BCHW = torch.zeros((len(names), *self.shape))
        unread = []
        for row, name in enumerate(names):
            try:
                pixels_BCHW[row] = read_image(Path(name), self.shape, self.resize, self.depth)
            except UnreadableImage as error:
                unread.append((row, str(error)))
        image_BCHW = pixels_BCHW.div_(255).sub_(self._mean_C11).div_(self._std_C11)
        return {"image": image_BCHW, "id": names, "quarantined": unread}


class TableInputs:
    """The rows of tables as batches: ``features`` float32 [B, D], ``id`` and ``quarantined``.

    A Parquet file is read one row group at a time, so a long file needs no more memory; CSV and TSV files are read
    whole. Without an id column a row is named by its number, or by file and number if there are several files.

    Args:
        paths: Parquet, CSV or TSV files.
        schema: which column is what, as the model was trained.
        standardise: standardises as the model was trained.

    Raises:
        UserError: a file that is not a table or lacks a column.
    """

    def __init__(self, paths: Sequence[str], schema: Schema, standardise: Standardizer) -> None:
        self.paths, self.schema, self.standardise = list(paths), schema, standardise
        self._blocks = [block for path in paths for block in _blocks(path)]
        self._starts = np.concatenate([[0], np.cumsum([rows for _, _, _, rows in self._blocks])])
        self._held: tuple[int, pd.DataFrame] | None = None

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def fingerprint(self) -> str:
        """A hash of the names, sizes and times of the files."""
        return _fingerprint(self.paths)

    def fetch(self, indices: np.ndarray, epoch: int) -> dict[str, Any]:
        """The batch of the rows at `indices` (int64 [B], ascending), the same in every epoch."""
        owner = np.searchsorted(self._starts, indices, side="right") - 1
        pieces = [self._rows(block, indices[owner == block] - self._starts[block]) for block in np.unique(owner)]
        frame = pd.concat(pieces, ignore_index=True) if len(pieces) > 1 else pieces[0].reset_index(drop=True)
        features, wrong = to_features("the table", frame, self.schema)
        wrong = self.standardise.beyond(features) | wrong
        features[list(wrong)] = 0
        text = self.schema.text
        return {
            **({} if text is None else {"written": as_text(frame, text).fillna("").tolist()}),
            "features": self.standardise(features),
            "id": self._ids(frame, indices, owner),
            "quarantined": sorted(wrong.items()),
        }

    def _rows(self, block: int, rows: np.ndarray) -> pd.DataFrame:
        if self._held is None or self._held[0] != block:
            path, group, first, count = self._blocks[int(block)]
            if group is None:
                frame = read_frame(path).iloc[first : first + count]
            else:
                with readable(path), pq.ParquetFile(path) as file:
                    frame = to_frame(file.read_row_group(group))
            self._held = (block, frame)
        return self._held[1].iloc[rows]

    def _ids(self, frame: pd.DataFrame, indices: np.ndarray, owner: np.ndarray) -> Any:
        if self.schema.id is not None:
            require_columns("the table", frame, [self.schema.id])
            names = as_text(frame, self.schema.id).tolist()
            return [f"#{row}" if name is None else name for name, row in zip(names, indices.tolist(), strict=True)]
        if len(self.paths) == 1:
            return indices
        first = [self._blocks[block][2] for block in owner.tolist()]
        rows = indices - self._starts[owner] + first
        return [f"{self._blocks[b][0]}#{row}" for b, row in zip(owner.tolist(), rows.tolist(), strict=True)]


def _blocks(path: str) -> list[tuple[str, int | None, int, int]]:
    """(file, row group or None, first row, number of rows) of each block of a table that is read at once."""
    if Path(path).suffix.lower() != ".parquet" or not Path(path).is_file():
        return [(path, None, 0, len(read_frame(path)))]
    with readable(path), pq.ParquetFile(path) as file:
        counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    starts = np.cumsum([0, *counts])
    return [(path, group, int(starts[group]), count) for group, count in enumerate(counts)]


def _fingerprint(paths: Sequence[str]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for path in paths:
        try:
            facts = Path(path).stat()
            found.update(f"{path} {facts.st_size} {facts.st_mtime_ns}\n".encode())
        except OSError:  # the file will be quarantined
            found.update(f"{path} missing\n".encode())
    return found.hexdigest()
