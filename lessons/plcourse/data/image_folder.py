"""A user's own image files: one folder per class, or a list of files to predict.

Opening a folder reads the bytes (for the content hash) and the header of each file; `read` decodes the pixels.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
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
from plcourse.data.image_files import ImageFiles, class_folders, find_images, left_out_line
from plcourse.data.names import as_text
from plcourse.data.resize import ImageSize, Resize, as_pixels, resized, size_of
from plcourse.errors import UserError

LARGEST_KEPT = 256  # pixels a side up to which a common size is kept; one batch of larger images fills the memory
MIXED_SIZE = 64  # pixels a side otherwise: still enough for a photograph, and two CPU cores can train on it
_GLANCED = 1000  # files whose headers are read before a stream of them begins, which takes a fraction of a second
CACHE_BYTES = 256 << 20  # a folder whose decoded images fit into this is only decoded in the first epoch


class DecodedCache:
    """Decodes `n` uint8 samples of one shape, and keeps them if all of them together take at most `CACHE_BYTES`."""

    def __init__(self, n: int, shape: Sequence[int]) -> None:
        fits = n * int(np.prod(shape)) <= CACHE_BYTES
        self._samples = torch.empty((n, *shape), dtype=torch.uint8) if fits else None
        self._known = np.zeros(n, bool)

    def read(self, indices: np.ndarray, decode: Callable[[int], torch.Tensor]) -> torch.Tensor:
        """The samples at `indices` (int64 [B]); `decode` makes those that are not in memory."""
        if self._samples is None:
            return torch.stack([decode(i) for i in indices.tolist()])
        for i in indices[~self._known[indices]].tolist():
            self._samples[i] = decode(i)
            self._known[i] = True
        return self._samples.index_select(0, torch.from_numpy(indices))

    def clear(self) -> None:
        """Forgets all samples."""
        self._known[:] = False


class FolderSource:
    """Image files, decoded when read. See `Source` for the attributes.

    Args:
        name: the source's name.
        files: N files.
        label_names: one name per class.
        shape: (channels, height, width) to decode to. None takes it from the files: gray if all are, and the size
            that all share if it is at most 256 pixels a side, else 64 x 64.
        image_size: height and width, or one number for both, instead of those of `shape`.
        on_error: ``raise`` names the first unreadable file, at once where its header shows it and otherwise when it is
            read; ``skip`` decodes every file now and leaves the unreadable ones out.
        channels: 1 or 3 to decode to, whatever the files have; None leaves it to `shape`.
        resize: how an image of another size is resized; see `plcourse.data.resize`.
        depth: bits of the values of 16-bit files; 0 refuses files whose values leave that open; None takes the
            smallest of 8, 10, 12, 14 and 16 that holds all values of all files.

    Raises:
        UserError: an unreadable file, or no readable file at all.
    """

    def __init__(
        self,
        name: str,
        files: ImageFiles,
        label_names: list[str],
        shape: tuple[int, int, int] | None = None,
        image_size: ImageSize | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        channels: int | None = None,
        resize: Resize = "crop",
        depth: int | None = None,
    ) -> None:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing and decoding release the lock
            facts = list(pool.map(inspect, files.paths, [on_error == "skip"] * len(files.paths)))
        if depth is not None:
            facts = [replace(each, error=each.error or misfit(each.peak, depth)) for each in facts]
        bad = [i for i, each in enumerate(facts) if each.error]
        if bad and on_error == "raise":
            raise _unreadable(files.paths[bad[0]], str(facts[bad[0]].error))
        self.rejected = [(str(files.paths[i]), str(facts[i].error)) for i in bad]
        good = [i for i, each in enumerate(facts) if not each.error]
        if not good:
            path, reason = self.rejected[0]
            raise UserError(f"none of {len(facts)} image files can be read; the first is '{path}': {reason}")
        files, facts = files.take(good), [facts[i] for i in good]
        self.name, self.label_names, self.paths, self.ids = name, label_names, files.paths, files.ids
        self.resize: Resize = resize
        self.sizes = np.array([each.size for each in facts], np.int64)  # [N, 2], height and width as shown, upright
        self.orientations = np.array([each.orientation for each in facts], np.int64)  # EXIF's, [N]
        self.notes = [*files.notes, *_notes(name, facts)]  # lines to be shown once
        peak = max(each.peak for each in facts)
        self.depth = depth if depth is not None else depth_of(peak) if peak else 0
        number = {label: i for i, label in enumerate(label_names)}
        self.labels = np.array([number.get(label, -1) for label in files.labels], np.int64)
        self.hashes = np.frombuffer(b"".join(each.content for each in facts), "<u8").astype(np.uint64)
        self.parts = files.parts
        found_channels, *found_size = shape or _common_shape(facts)
        height, width = found_size if image_size is None else size_of(image_size)
        self.shape = (channels or found_channels, height, width)
        self._cache = DecodedCache(len(self.ids), self.shape)

    @classmethod
    def of_classes(
        cls,
        root: str,
        image_size: ImageSize | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        resize: Resize = "crop",
    ) -> Self:
        """Opens a folder with one sub-folder per class, or with parts of such; see `class_folders`.

        The id of a sample is its path below `root`.
        """
        files = class_folders(root)
        return cls("image_folder", files, files.label_names, None, image_size, on_error, resize=resize)

    def read(self, indices: np.ndarray) -> torch.Tensor:
        """The images at `indices` (int64 [B]) as uint8 [B, C, H, W]; a UserError names a file that is damaged."""
        return self._cache.read(indices, self._decoded)

    def use_depth(self, depth: int) -> None:
        """Reads 16-bit files as the model of a checkpoint read them in training."""
        if depth != self.depth:
            self.depth = depth
            self._cache.clear()

    def read_raw(self, index: int) -> torch.Tensor:
        """One upright image before it is resized: uint8 [C, H, W]."""
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
    """Opens files without labels, for prediction; the id of a file is its path as given.

    Paths are image files, folders, patterns and lists (see `find_images`); one that leads to no image is a UserError.
    Shape (channels, height, width), rule and depth are those that the model was trained with; see `FolderSource`.
    """
    left_out: Counter[str] = Counter()
    names = find_images(paths, "predict_paths", left_out)
    if not names:
        raise UserError("predict_paths: the list is empty; give image files, folders, patterns or .txt lists")
    notes = left_out_line("predict_paths", left_out)
    files = ImageFiles([Path(name) for name in names], [*map(as_text, names)], [""] * len(names), notes=notes)
    return FolderSource("files", files, [], shape, None, on_error, resize=resize, depth=depth)


def read_image(path: Path, shape: tuple[int, int, int], resize: Resize | None = "crop", depth: int = 0) -> torch.Tensor:
    """One file as upright uint8 [C, H, W], resized to `shape` (channels, height, width).

    Without a rule, `resize`, it keeps its height and width. See `FolderSource` for the depth. A file that cannot be
    decoded raises UnreadableImage.
    """
    channels, height, width = shape
    try:
        with Image.open(path) as image:
            check_size(image)
            image = upright(image, channels, depth)
            return as_pixels(image if resize is None else resized(image, (height, width), resize))
    except DECODE_ERRORS as error:
        raise UnreadableImage(reason_of(error)) from error


def header_notes(name: str, paths: Sequence[str]) -> list[str]:
    """The lines of `FolderSource.notes` on transparency and frames, from the headers of the first files."""
    some = paths[:_GLANCED]
    where = name if len(some) == len(paths) else f"{name}, the first {len(some):,} of {len(paths):,}"
    return _notes(where, [glance(Path(path)) for path in some])


def _notes(name: str, facts: Sequence[Facts]) -> list[str]:
    notes = []
    if n := sum(each.transparent for each in facts):
        notes.append(f"{name}: {n:,} of {len(facts):,} images have an alpha channel; transparent pixels become white")
    if n := sum(each.frames for each in facts):
        notes.append(f"{name}: {n:,} of {len(facts):,} images have several frames or pages; the first is read")
    return notes


def _common_shape(facts: Sequence[Facts]) -> tuple[int, int, int]:
    channels = 1 if all(each.gray for each in facts) else 3
    sizes = {each.size for each in facts}
    height, width = sizes.pop()
    if sizes or max(height, width) > LARGEST_KEPT:
        return channels, MIXED_SIZE, MIXED_SIZE
    return channels, height, width


def _unreadable(path: Path, reason: str) -> UserError:
    return UserError(
        f"cannot read the image '{path}': {reason}; repair or remove it, or leave such files out with "
        "--data.init_args.on_error=skip"
    )
