"""Finds image files: below folders, by patterns and in lists. What is left out is counted by its ending."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from glob import has_magic
from pathlib import Path

from PIL import Image

from plcourse.data.lines import read_lines
from plcourse.errors import UserError
from plcourse.files import expand

_DRAWING = "a drawing, not pixels"
_RAW = "raw data of a camera; convert it"
_CONVERT = "Pillow cannot read it; convert it to JPEG or PNG"
# formats that Pillow registers, and decodes only with other programs, on one system, or not at all
_NOT_DECODED = {"EPS", "WMF", "MPEG", "HDF5", "GRIB", "BUFR", "IPTC", "PDF", "PALM"}
_WHY = {
    **dict.fromkeys((".eps", ".ps", ".pdf", ".svg", ".wmf", ".emf"), _DRAWING),
    **dict.fromkeys((".heic", ".heif", ".jxl"), _CONVERT),
    **dict.fromkeys((".dng", ".nef", ".cr2", ".cr3", ".arw", ".raw", ".rw2", ".orf", ".raf"), _RAW),
}
# what systems put into folders by themselves
_DROPPINGS = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "__pycache__", "@eadir", "$recycle.bin"}


@cache
def image_endings() -> tuple[str, ...]:
    """The endings, in lower case, of the image files that the installed Pillow reads by itself."""
    Image.init()
    return tuple(
        ending
        for ending, kind in sorted(Image.registered_extensions().items())
        if (kind in Image.OPEN or kind == "MPO") and kind not in _NOT_DECODED
    )


def is_image(name: str) -> bool:
    """Whether a file's name ends like an image that can be read."""
    return name.lower().endswith(image_endings())


def is_dropping(name: str) -> bool:
    """Whether a file or folder is hidden, or put there by the system."""
    return name.startswith(".") or name.lower() in _DROPPINGS


def folders_in(path: Path) -> list[Path]:
    """The sub-folders of a folder, sorted, without hidden ones and those that systems make."""
    return sorted(p for p in path.iterdir() if p.is_dir() and not is_dropping(p.name))


def images_below(folder: Path, left_out: Counter[str]) -> list[Path]:
    """Every image file in a folder and its sub-folders, sorted.

    Args:
        folder: a folder. Links to folders are followed, but not in circles; a link that leads nowhere counts as a
            file, so that reading it names it.
        left_out: counts the other files by their endings; hidden files and those that systems make do not count.
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
        paths: files, folders (every image below), patterns, and ``.txt`` files with one path per line. A name that
            exists is taken as it is; only else it is a pattern.
        setting: the name of the setting that gives them, for errors.
        left_out: see `images_below`; a file that is named itself is never left out.

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
            what = "leads to no image" if literal or has_magic(path) else "is not there"
            raise UserError(
                f"{setting}: '{path}' {what}{f' (only to {others})' if others else ''}; give image files, folders, "
                "patterns such as 'photos/*.jpg', or a .txt file with one path per line"
            )
        found += inside
    return list(dict.fromkeys(found))


def describe(left_out: Counter[str]) -> str:
    """What was left out, in words: ``2 .txt, 1 .eps (a drawing, not pixels)``."""
    return ", ".join(
        f"{count} {ending or 'without an ending'}{f' ({_WHY[ending]})' if ending in _WHY else ''}"
        for ending, count in left_out.most_common()
    )


def left_out_line(name: str, left_out: Counter[str]) -> list[str]:
    """One line that says what was left out, or none."""
    n = left_out.total()
    if not n:
        return []
    files = (
        "1 file that Pillow does not read as an image" if n == 1 else f"{n:,} files that Pillow does not read as images"
    )
    return [f"{name}: left out {files}: {describe(left_out)}"]
