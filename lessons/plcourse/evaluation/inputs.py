"""New inputs to predict: image files or the rows of tables. Inputs that cannot be read are quarantined.

An input is read when its batch is needed, so that a million files do not delay the start. A batch has one row per
input; an input that cannot be read becomes zeros, and ``quarantined`` lists its row and the reason.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

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

    Shape (channels, height, width), normalization, resizing rule and depth (the bits of 16-bit files; see
    `FolderSource`) are those of the training images.
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
    whole. Without an id column a row is named by its number, or by file and number if there are several files. The
    schema and the standardization are those of the training.

    Raises:
        UserError: a file that is not a table or lacks a column.
    """

    def __init__(self, paths: Sequence[str], schema: Schema, standardize: Standardizer) -> None:
        self.paths, self.schema, self.standardize = list(paths), schema, standardize
        self._blocks = [block for path in paths for block in _blocks_of(path)]
        self._starts = np.cumsum([0, *(block.rows for block in self._blocks)])
        self._held: tuple[int, pd.DataFrame] = (-1, pd.DataFrame())

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
        frame = pd.concat(pieces, ignore_index=True)
        features, wrong = to_features("the table", frame, self.schema)
        wrong = self.standardize.beyond(features) | wrong
        features[list(wrong)] = 0
        text = self.schema.text
        written = {} if text is None else {"written": as_text(frame, text).fillna("").tolist()}
        return {
            **written,
            "features": self.standardize(features),
            "id": self._ids(frame, indices, owner),
            "quarantined": sorted(wrong.items()),
        }

    def _rows(self, block: int, rows: np.ndarray) -> pd.DataFrame:
        if self._held[0] != block:
            self._held = (block, self._blocks[block].read())
        return self._held[1].iloc[rows]

    def _ids(self, frame: pd.DataFrame, indices: np.ndarray, owner: np.ndarray) -> list[str] | np.ndarray:
        if self.schema.id is not None:
            require_columns("the table", frame, [self.schema.id])
            names = as_text(frame, self.schema.id).tolist()
            return [f"#{row}" if name is None else name for name, row in zip(names, indices.tolist(), strict=True)]
        if len(self.paths) == 1:
            return indices
        within = (indices - self._starts[owner]).tolist()  # the block
        blocks = [self._blocks[block] for block in owner.tolist()]
        return [f"{block.path}#{block.first + row}" for block, row in zip(blocks, within, strict=True)]


class _Block(NamedTuple):
    """Rows of a table that are read at once: a row group of a Parquet file, or a whole file of another format."""

    path: str
    group: int | None
    first: int
    rows: int

    def read(self) -> pd.DataFrame:
        if self.group is None:
            return read_frame(self.path)
        with readable(self.path), pq.ParquetFile(self.path) as file:
            return to_frame(file.read_row_group(self.group))


def _blocks_of(path: str) -> list[_Block]:
    if Path(path).suffix.lower() != ".parquet" or not Path(path).is_file():
        return [_Block(path, None, 0, len(read_frame(path)))]
    with readable(path), pq.ParquetFile(path) as file:
        counts = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    starts = np.cumsum([0, *counts]).tolist()
    return [_Block(path, group, starts[group], count) for group, count in enumerate(counts)]


def _fingerprint(paths: Sequence[str]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for path in paths:
        try:
            facts = Path(path).stat()
            found.update(f"{path} {facts.st_size} {facts.st_mtime_ns}\n".encode())
        except OSError:  # the file will be quarantined
            found.update(f"{path} missing\n".encode())
    return found.hexdigest()
