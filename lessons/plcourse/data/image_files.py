"""Finds image files in folders of classes and parts, by patterns and in lists, and counts the files left out.

Folders that could be parts as well as classes are refused.
"""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from glob import has_magic
from pathlib import Path

import numpy as np
from PIL import Image

from plcourse.data.lines import read_lines
from plcourse.data.names import as_text, by_part, normal, part_of
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

LAYOUT = "give a folder with one sub-folder of images per class, or with train/, val/ and test/ of such"
_ADD = "add images, or remove the folder"


@dataclass
class ImageFiles:
    """Image files of a user, N in all."""

    paths: list[Path] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)  # N distinct names
    labels: list[str] = field(default_factory=list)  # N class names; empty strings for files without labels
    part_of: list[str] | None = None  # N times ``train``, ``val`` or ``test``; None where the folder is not split
    masks: list[Path] = field(default_factory=list)  # N mask files, or none
    notes: list[str] = field(default_factory=list)  # one line for each kind of thing that was left out

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
        return ImageFiles(
            [self.paths[i] for i in indices],
            [self.ids[i] for i in indices],
            [self.labels[i] for i in indices],
            self.part_of and [self.part_of[i] for i in indices],
            self.masks and [self.masks[i] for i in indices],
            self.notes,
        )


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
    """Every image file in a folder and its sub-folders, sorted; `left_out` counts the other files by their endings.

    Links to folders are followed, but not in circles; a broken link counts as a file, so that the error of reading it
    names it.
    """
    above = frozenset(map(str, Path(os.path.realpath(folder)).parents))
    files = sorted(_files_below(folder, above))
    left_out.update(path.suffix.lower() for path in files if not is_image(path.name))
    return [path for path in files if is_image(path.name)]


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

    A path is a file, a folder (every image below), a pattern if no file has that name, or a ``.txt`` file with one path
    per line. `left_out` counts other files, see `images_below`; a file that is named explicitly is never left out. A
    path that leads to no image is a UserError, which names the `setting`.
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
    if not (n := left_out.total()):
        return []
    what = "files that Pillow does not read as images" if n > 1 else "file that Pillow does not read as an image"
    return [f"{name}: left out {n:,} {what}: {describe(left_out)}"]


def class_folders(root: str) -> ImageFiles:
    """The images in a folder with one sub-folder per class, or with parts of such; another layout is a UserError.

    Sub-folders of a class folder belong to the class. Hidden files are ignored; other files that are not images are
    counted in the notes. Class names are in Unicode's composed form.
    """
    top = Path(root)
    if not top.is_dir():
        raise UserError(f"image_folder: '{root}' {'is a file' if top.is_file() else 'does not exist'}; {LAYOUT}")
    parts = _parts(top)
    in_order = sorted((parts or {"": top}).items(), key=lambda item: item[1])  # the order of ids, which never changes
    found = ImageFiles(part_of=[] if parts else None)
    left_out: Counter[str] = Counter()
    for part, outer in in_order:
        for folder in folders_in(outer):
            others: Counter[str] = Counter()
            images = images_below(folder, others)
            if not images:
                raise UserError(
                    "; ".join([f"image_folder: no image in '{folder}'", *left_out_line("it", others), _ADD])
                )
            left_out += others
            found.paths += images
            found.ids += [as_text(path.relative_to(root).as_posix()) for path in images]
            found.labels += [normal(folder.name)] * len(images)
            if found.part_of is not None:
                found.part_of += [part] * len(images)
    if not found.paths:
        raise UserError(f"image_folder: no class folder in '{root}'; {LAYOUT}")
    loose = _loose([top, *parts.values()], left_out)
    found.notes = left_out_line("image_folder", left_out)
    if loose:
        images = "image" if len(loose) == 1 else "images"
        found.notes.append(
            f"image_folder: left out {len(loose):,} {images} outside of the class folders, such as '{loose[0]}'"
        )
    return found


def _parts(top: Path) -> dict[str, Path]:
    """The parts below `top` by their names; empty where its folders are classes.

    A class may be called "train" or "test" if there are other classes beside it and it holds images, not folders.
    """
    folders = folders_in(top)
    named = [folder for folder in folders if part_of(folder.name)]
    others = [folder for folder in folders if folder not in named]
    split = [folder for folder in named if folders_in(folder)]
    if not split:
        if len(named) > 1 and not others:
            raise UserError(
                f"image_folder: {_listed(named)} in '{top}' are named like parts but have no class folders; put the "
                "images of each class into a folder, or rename these folders if they are classes"
            )
        _check_classes(top, folders)
        return {}
    if others:
        raise UserError(
            f"image_folder: the folder '{others[0].name}' beside {_listed(named)} in '{top}' is not one of the parts "
            f"train, val and test; move it elsewhere, or rename {_listed(split)} if these are classes"
        )
    parts = by_part(named, "image_folder")
    for folder in parts.values():
        if folder not in split:
            raise UserError(
                f"image_folder: '{folder}' has no class folders, unlike {_listed(split)}; add them, or move it "
                "elsewhere and predict its images with predict_paths"
            )
    if "train" not in parts:
        raise UserError(f"image_folder: '{top}' has {_listed(named)} but no train folder; {LAYOUT}")
    return parts


def _check_classes(top: Path, folders: Sequence[Path]) -> None:
    """Refuses folders of folders whose names are more likely years, sites or parts than classes."""
    inside = [folders_in(folder) for folder in folders]
    if any(is_image(path.name) for folder in folders for path in folder.iterdir()):
        return
    counts = Counter(normal(each.name) for names in inside for each in names)
    shared = sorted(name for name, count in counts.items() if count > 1)
    if len(folders) == 1 and len(inside[0]) > 1:
        raise UserError(
            f"image_folder: the only folder in '{top}' is '{folders[0].name}', which holds {_listed(inside[0])}; if "
            f"these are the classes, give '{folders[0]}' as the root"
        )
    if len(shared) > 1 and all({normal(each.name) for each in names} & set(shared) for names in inside):
        raise UserError(
            f"image_folder: {_listed(folders)} in '{top}' all hold the same folders, {_short(shared)}; if those are "
            "the classes, put their images together into one folder each, or name the outer folders train, val and test"
        )


def _loose(folders: Sequence[Path], left_out: Counter[str]) -> list[Path]:
    """The images that lie in the folders themselves; other files are counted."""
    files = [path for folder in folders for path in folder.iterdir() if path.is_file() and not is_dropping(path.name)]
    left_out.update(path.suffix.lower() for path in files if not is_image(path.name))
    return sorted(path for path in files if is_image(path.name))


def _listed(folders: Sequence[Path]) -> str:
    return _short([folder.name for folder in folders])


def _short(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:4]) + (", ..." if len(names) > 4 else "")
