"""Finds image files below folders, by patterns and in lists, and counts by their endings the files left out."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from glob import has_magic
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from plcourse.data.lines import read_lines
from plcourse.errors import UserError
from plcourse.files import expand

_DRAWING = "a drawing, not pixels"
_RAW = "raw data of a camera; convert it"
_CONVERT = "Pillow cannot read it; convert it to JPEG or PNG"
# formats that Pillow registers but decodes only with other programs, on one system, or not at all
_NOT_DECODED = {"EPS", "WMF", "MPEG", "HDF5", "GRIB", "BUFR", "IPTC", "PDF", "PALM"}
_WHY = {
    **dict.fromkeys((".eps", ".ps", ".pdf", ".svg", ".wmf", ".emf"), _DRAWING),
    **dict.fromkeys((".heic", ".heif", ".jxl"), _CONVERT),
    **dict.fromkeys((".dng", ".nef", ".cr2", ".cr3", ".arw", ".raw", ".rw2", ".orf", ".raf"), _RAW),
}
# files that operating systems create in folders
_DROPPINGS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "__pycache__", "@eadir", "$recycle.bin"}


@dataclass
class ImageFiles:
    """Image files of a user, N in all.

    Attributes:
        paths: N image files.
        ids: N distinct names.
        labels: N class names; empty strings for files without labels.
        part_of: N part names, ``train``, ``val`` or ``test``; None where the folder is not split.
        masks: the mask file of each image; empty where there are no masks.
        notes: one line for each kind of thing that was left out.
    """

    paths: list[Path] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    part_of: list[str] | None = None
    masks: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def label_names(self) -> list[str]:
        """One name per class."""
        return sorted(set(self.labels))

    @property
    def parts(self) -> dict[str, np.ndarray] | None:
        """The indices of each part, int64."""
        if self.part_of is None:
            return None
        names = np.array(self.part_of)
        return {part: np.flatnonzero(names == part) for part in ("train", "val", "test") if part in self.part_of}

    def take(self, indices: Sequence[int]) -> "ImageFiles":
        """The files at `indices`."""

        def some(values: Any) -> Any:
            return [values[i] for i in indices] if values else values

        paths, ids, labels, part_of, masks = map(some, (self.paths, self.ids, self.labels, self.part_of, self.masks))
        return ImageFiles(paths, ids, labels, part_of, masks, self.notes)


@cache
def image_endings() -> tuple[str, ...]:
    """The lower-case endings of the image files that the installed Pillow reads without other programs."""
    Image.init()
    return tuple(
        ending
        for ending, kind in sorted(Image.registered_extensions().items())
        if (kind in Image.OPEN or kind == "MPO") and kind not in _NOT_DECODED
    )


def is_image(name: str) -> bool:
    """Whether a file's name ends like that of an image that can be read."""
    return name.lower().endswith(image_endings())


def is_dropping(name: str) -> bool:
    """Whether a file or folder is hidden or was created by the operating system."""
    return name.startswith(".") or name.lower() in _DROPPINGS


def folders_in(path: Path) -> list[Path]:
    """The sub-folders of a folder, sorted, without those that `is_dropping` names."""
    return sorted(p for p in path.iterdir() if p.is_dir() and not is_dropping(p.name))


def images_below(folder: Path, left_out: Counter[str]) -> list[Path]:
    """Every image file in a folder and its sub-folders, sorted.

    Args:
        folder: a folder. Links to folders are followed, but not in circles; a broken link counts as a file, so that
            the error of reading it names it.
        left_out: counts the other files by their endings, without those that `is_dropping` names.
    """
    found = []
    above = frozenset(map(str, Path(os.path.realpath(folder)).parents))
    for path in _files_below(folder, above):
        if is_image(path.name):
            found.append(path)
        else:
            left_out[path.suffix.lower()] += 1
    return sorted(found)


def _files_below(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:
        return
    for path in folder.iterdir():
        if is_dropping(path.name):
            continue
        if path.is_dir():
            yield from _files_below(path, above | {real})
        elif path.is_file() or path.is_symlink():
            yield path


def find_images(paths: Sequence[str], setting: str, left_out: Counter[str]) -> list[str]:
    """The image files that a list of paths stands for, in its order, each once.

    Args:
        paths: files, folders (every image below), patterns, and ``.txt`` files with one path per line. Only a name
            that does not exist is read as a pattern.
        setting: the name of the setting, for errors.
        left_out: see `images_below`; a file that is named explicitly is never left out.

    Raises:
        UserError: a path that leads to no image.
    """
    found: list[str] = []
    for path in paths:
        before = left_out.copy()
        inside: list[str] = []
        literal = Path(path).exists()
        for each in expand(path):
            file = Path(each)
            if file.is_dir():
                inside += [image.as_posix() for image in images_below(file, left_out)]
            elif literal and file.suffix.lower() == ".txt":
                lines = [line for _, line in read_lines(file)]
                inside += [line if Path(line).exists() else line.strip() for line in lines]
            elif literal or is_image(file.name):
                inside.append(file.as_posix())
            elif not is_dropping(file.name):
                left_out[file.suffix.lower()] += 1
        if not inside:
            others = describe(left_out - before)
            what = "leads to no image" if literal or has_magic(path) else "does not exist"
            raise UserError(
                f"{setting}: '{path}' {what}{f' (only to {others})' if others else ''}; give image files, folders, "
                "patterns such as 'photos/*.jpg', or a .txt file with one path per line"
            )
        found += inside
    return list(dict.fromkeys(found))


def describe(left_out: Counter[str]) -> str:
    """The counts in words: ``2 .txt, 1 .eps (a drawing, not pixels)``."""
    return ", ".join(
        f"{count} {ending or 'without an ending'}{f' ({_WHY[ending]})' if ending in _WHY else ''}"
        for ending, count in left_out.most_common()
    )


def left_out_line(name: str, left_out: Counter[str]) -> list[str]:
    """A list of one line that says what was left out; empty if nothing was."""
    n = left_out.total()
    if not n:
        return []
    files = (
        "1 file that Pillow does not read as an image" if n == 1 else f"{n:,} files that Pillow does not read as images"
    )
    return [f"{name}: left out {files}: {describe(left_out)}"]
