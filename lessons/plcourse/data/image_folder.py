"""A user's own image files: one folder per class, or a list of files to predict.

Decoding is left to `read`; opening a folder only reads the bytes (for the content hash) and the header of
each file.
"""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal, Self

import numpy as np
import torch
from PIL import Image

from plcourse.data.decode import (
    DECODE_ERRORS,
    Facts,
    UnreadableImage,
    check_size,
    depth_of,
    glance,
    inspect,
    misfit,
    reason_of,
    upright,
)
from plcourse.data.image_files import find_images, left_out_line
from plcourse.data.layouts import class_folders
from plcourse.data.resize import ImageSize, Resize, as_pixels, resized, size_of
from plcourse.errors import UserError

LARGEST_KEPT = 256  # pixels a side up to which a common size is kept; one batch of larger ones fills the memory
MIXED_SIZE = 64  # pixels a side otherwise: what a photograph still shows and two CPU cores still train
_GLANCED = 1000  # files that are looked at before a stream of them begins, in a fraction of a second
CACHE_BYTES = 256 << 20  # decoded images of a small folder are kept, so that only the first epoch decodes


class FolderSource:
    """Image files, decoded when read. See `Source` for the attributes.

    Args:
        name: the source's name.
        paths: N files.
        ids: N distinct names.
        labels: int64 [N]; -1 for a file without a label.
        label_names: one name per class.
        shape: (channels, height, width) to decode to; None takes it from the files: grey if all are, the size
            that all share if that is at most 256 pixels a side, else 64 x 64.
        image_size: height and width, or one number for both, instead of those of `shape`.
        on_error: ``raise`` names the first unreadable file, at once where its header shows it and else when
            it is read; ``skip`` decodes every file now and leaves the unreadable ones out.
        part_of: N part names where the folder has its own split.
        channels: 1 or 3 to decode to, whatever the files are; None leaves it to `shape`.
        resize: how an image of another size is brought to the shape; see `plcourse.data.resize`.
        depth: bits of the values of 16-bit files; 0 refuses files whose values leave that open; None takes the
            smallest of 8, 10, 12, 14 and 16 that holds all values of all files.
        notes: lines on what was left out already.

    Attributes:
        sizes: int64 [N, 2], height and width of each file as it is shown, upright.
        orientations: int64 [N], the EXIF orientation of each file.
        depth: as above; 0 where no file has 16 bits.
        notes: lines that a person should see once: what was left out, and how files were read that allow two readings.

    Raises:
        UserError: an unreadable file, or no readable file at all.
    """

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        ids: Sequence[str],
        labels: Sequence[int],
        label_names: list[str],
        shape: tuple[int, int, int] | None = None,
        image_size: ImageSize | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        part_of: Sequence[str] | None = None,
        channels: int | None = None,
        resize: Resize = "crop",
        depth: int | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing and decoding release the lock
            facts = list(pool.map(inspect, paths, [on_error == "skip"] * len(paths)))
        if depth is not None:
            facts = [_fitting(each, depth) for each in facts]
        bad = [i for i, each in enumerate(facts) if each.error]
        if bad and on_error == "raise":
            raise _unreadable(paths[bad[0]], str(facts[bad[0]].error))
        good = [i for i, each in enumerate(facts) if not each.error]
        if not good:
            raise UserError(
                f"none of {len(paths)} image files can be read; the first is '{paths[0]}': {facts[0].error}"
            )
        self.name = name
        self.resize: Resize = resize
        self.sizes = np.array([facts[i].size for i in good], np.int64)
        self.orientations = np.array([facts[i].orientation for i in good], np.int64)
        self.notes = [*notes, *_notes(name, [facts[i] for i in good])]
        peak = max(facts[i].peak for i in good)
        self.depth = depth if depth is not None else depth_of(peak) if peak else 0
        self.paths = [paths[i] for i in good]
        self.ids = [ids[i] for i in good]
        self.labels = np.array([labels[i] for i in good], np.int64)
        self.label_names = label_names
        self.rejected = [(str(paths[i]), str(facts[i].error)) for i in bad]
        self.hashes = np.frombuffer(b"".join(facts[i].content for i in good), "<u8").astype(np.uint64)
        self.parts = None if part_of is None else _indices_of([part_of[i] for i in good])
        self.shape = shape or _common_shape([facts[i] for i in good])
        if image_size is not None:
            self.shape = (self.shape[0], *size_of(image_size))
        if channels is not None:
            self.shape = (channels, *self.shape[1:])
        fits = len(good) * int(np.prod(self.shape)) <= CACHE_BYTES
        self._cache = torch.empty((len(good), *self.shape), dtype=torch.uint8) if fits else None
        self._cached = np.zeros(len(good), bool)

    @classmethod
    def of_classes(
        cls,
        root: str,
        image_size: ImageSize | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        resize: Resize = "crop",
    ) -> Self:
        """Opens a folder with one sub-folder per class, or with ``train/`` and ``val/``, ``test/`` of such.

        Sub-folders of a class folder belong to it. Hidden files are passed over; other files that are no images are
        counted in `notes`. The id of a sample is its path below `root`. See `class_folders` for what is refused.

        Raises:
            UserError: `root` does not look like that.
        """
        found = class_folders(root)
        ids = [path.relative_to(root).as_posix() for path in found.paths]
        return cls(
            "image_folder",
            found.paths,
            ids,
            found.labels,
            found.label_names,
            None,
            image_size,
            on_error,
            found.part_of,
            resize=resize,
            notes=found.notes,
        )

    def read(self, indices: np.ndarray) -> torch.Tensor:
        """The images at `indices` (int64 [B]) as uint8 [B, C, H, W].

        Raises:
            UserError: a file that cannot be decoded, by name.
        """
        if self._cache is None:
            return torch.stack([self._decoded(i) for i in indices.tolist()])
        for i in indices[~self._cached[indices]].tolist():
            self._cache[i] = self._decoded(i)
            self._cached[i] = True
        return self._cache.index_select(0, torch.from_numpy(indices))

    def use_depth(self, depth: int) -> None:
        """Reads 16-bit files as a checkpoint was trained to see them."""
        if depth != self.depth:
            self.depth = depth
            self._cached[:] = False

    def read_raw(self, index: int) -> torch.Tensor:
        """One image as it is before it is resized: uint8 [C, H, W] in its own size, upright."""
        return self._decoded(index, whole=True)

    def _decoded(self, index: int, whole: bool = False) -> torch.Tensor:
        try:
            return read_image(self.paths[index], self.shape, None if whole else self.resize, self.depth)
        except UnreadableImage as error:
            raise _unreadable(self.paths[index], str(error)) from error


def open_files(
    paths: Sequence[str],
    shape: tuple[int, int, int] | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    resize: Resize = "crop",
    depth: int | None = None,
) -> FolderSource:
    """Opens files without labels, for prediction. The id of a file is its path as given.

    Args:
        paths: image files, folders, patterns and lists; see `find_images`.
        shape: (channels, height, width) that the model was trained on.
        on_error: see `FolderSource`.
        resize: the rule that the model was trained with.
        depth: see `FolderSource`.

    Raises:
        UserError: a path that leads to no image.
    """
    left_out: Counter[str] = Counter()
    names = find_images(paths, "predict_paths", left_out)
    if not names:
        raise UserError("predict_paths: the list is empty; give image files, folders, patterns or .txt lists")
    notes = left_out_line("predict_paths", left_out)
    files, labels = [Path(name) for name in names], [-1] * len(names)
    return FolderSource(
        "files", files, names, labels, [], shape, None, on_error, resize=resize, depth=depth, notes=notes
    )


def read_image(path: Path, shape: tuple[int, int, int], resize: Resize | None = "crop", depth: int = 0) -> torch.Tensor:
    """One file as uint8 [C, H, W], upright and brought to `shape` (channels, height, width); see `FolderSource`.

    Without a rule it keeps its own height and width.

    Raises:
        UnreadableImage: it cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            check_size(image)
            return _pixels(image, shape, resize, depth)
    except DECODE_ERRORS as error:
        raise UnreadableImage(reason_of(error)) from error


def header_notes(name: str, paths: Sequence[str]) -> list[str]:
    """The lines of `FolderSource.notes` on transparency and frames, by the headers of the first files alone."""
    some = paths[:_GLANCED]
    where = name if len(some) == len(paths) else f"{name}, the first {len(some):,} of {len(paths):,}"
    return _notes(where, [glance(Path(path)) for path in some])


def _fitting(facts: Facts, depth: int) -> Facts:
    reason = misfit(facts.peak, depth) if facts.peak else None
    return replace(facts, error=facts.error or reason)


def _notes(name: str, facts: Sequence[Facts]) -> list[str]:
    """What is known of files that could be read in several ways."""
    notes = []
    if n := sum(each.transparent for each in facts):
        notes.append(f"{name}: {n:,} of {len(facts):,} images have an alpha channel; what is transparent shows white")
    if n := sum(each.frames for each in facts):
        notes.append(f"{name}: {n:,} of {len(facts):,} images have several frames or pages; the first is read")
    return notes


def _common_shape(facts: list[Facts]) -> tuple[int, int, int]:
    channels = 1 if all(each.grey for each in facts) else 3
    sizes = {each.size for each in facts}
    height, width = sizes.pop()
    if sizes or max(height, width) > LARGEST_KEPT:
        return channels, MIXED_SIZE, MIXED_SIZE
    return channels, height, width


def _pixels(image: Image.Image, shape: tuple[int, int, int], resize: Resize | None, depth: int) -> torch.Tensor:
    """Upright, and brought to `shape` by the rule where there is one: uint8 [C, H, W]."""
    channels, height, width = shape
    image = upright(image, channels, depth)
    return as_pixels(image if resize is None else resized(image, (height, width), resize))


def _indices_of(part_of: list[str]) -> dict[str, np.ndarray]:
    names = np.array(part_of)
    return {part: np.flatnonzero(names == part) for part in ("train", "val", "test") if part in part_of}


def _unreadable(path: Path, reason: str) -> UserError:
    return UserError(
        f"cannot read the image '{path}': {reason}; mend or remove it, or leave such files out with "
        "--data.init_args.on_error=skip"
    )
