"""Image files with a mask file each: found in a mask folder, and checked against each other before training."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import torch

from plcourse.data.frames import as_text, read_frame
from plcourse.data.image_files import ImageFiles, folders_in, images_below, is_dropping, left_out_line
from plcourse.data.image_folder import DecodedCache, FolderSource
from plcourse.data.lines import line_of
from plcourse.data.mask_files import IGNORE, NO_PIXELS, MaskFile, fitted, read_mask, smeared, turns
from plcourse.data.names import by_part, class_names, normal, part_of
from plcourse.data.resize import ImageSize, Resize, window_of
from plcourse.data.sources import OnError
from plcourse.errors import UserError, nearest

LAYOUT = (
    "the folder must hold images/, masks/ (the same file names, one integer class per pixel) and "
    "labels.csv (file,label)"
)


class PairedFiles(FolderSource):
    """Image files with a mask file each; `open` checks the pairs. See `MaskSource` for the attributes.

    Two masks of one image count as one sample, because `hashes` only looks at the image.
    """

    mask_names: list[str]
    values: dict[int, Path]  # a mask file for each value that the masks have
    _mask_paths: list[Path]
    _turn_of: list[int]
    _mask_cache: DecodedCache

    @classmethod
    def open(
        cls,
        name: str,
        files: ImageFiles,
        image_size: ImageSize | None,
        on_error: OnError,
        resize: Resize,
        mask_values: Sequence[int] | None = None,
    ) -> Self:
        """Opens the images whose masks can be used; `set_classes` must follow. See `open_masks` for the arguments."""
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(lambda path: replace(read_mask(path), pixels=NO_PIXELS), files.masks)
            masks = dict(zip(files.ids, found, strict=True))
        path_of = dict(zip(files.ids, files.masks, strict=True))
        rejected: dict[str, str] = {}

        def reject(each: str, reason: str) -> None:
            if on_error == "raise":
                raise UserError(
                    f"the mask '{path_of[each]}' is wrong: {reason}; repair it, or leave such samples out with "
                    "--data.init_args.on_error=skip"
                )
            rejected[each] = reason

        def opened() -> Self:
            kept = [i for i, each in enumerate(files.ids) if each not in rejected]
            if not kept:
                each, reason = next(iter(rejected.items()))
                raise UserError(f"none of {len(masks)} masks can be used; the first is '{path_of[each]}': {reason}")
            # one model for gray and color: a gray image has three equal channels
            return cls(name, files.take(kept), files.label_names, None, image_size, on_error, 3, resize)

        wrong = {i: mask.error for i, mask in enumerate(masks.values()) if mask.error}
        wrong |= smeared(list(masks.values()), mask_values)
        for i in sorted(wrong):
            reject(files.ids[i], wrong[i])
        source = opened()
        turn_of, notes = turns([masks[each] for each in source.ids], source.sizes, source.orientations, name)
        misfits = [row for row, turn in enumerate(turn_of) if turn is None]
        for row in misfits:
            reject(source.ids[row], _misfit(masks[source.ids[row]], source, row))
        if misfits:
            source = opened()
        source._mask_paths = [path_of[each] for each in source.ids]
        source._turn_of = [turn for turn in turn_of if turn is not None]
        source._mask_cache = DecodedCache(len(source.ids), source.shape[1:])
        source.values = {value: path_of[each] for each in source.ids for value in masks[each].values}
        source.notes += notes
        source.rejected = [*((str(path_of[each]), reason) for each, reason in rejected.items()), *source.rejected]
        return source

    def set_classes(self, lookup: np.ndarray, names: Sequence[str]) -> None:
        """Says which value in a mask file is which class: `lookup` is uint8 [256], `names` has one name per class."""
        self._lookup, self.mask_names = lookup, list(names)
        self._mask_cache.clear()

    def renumber_masks(self, lookup: np.ndarray, names: Sequence[str]) -> None:
        """Gives the classes of pixels other numbers: `lookup` (uint8 [256]) has the new ones, `names` their names."""
        self.set_classes(lookup[self._lookup], names)

    def read_masks(self, indices: np.ndarray) -> torch.Tensor:
        """The masks at `indices` (int64 [B]) as uint8 [B, H, W], resized as the images."""
        return self._mask_cache.read(indices, self._decoded_mask)

    def read_raw_mask(self, index: int) -> torch.Tensor:
        """One mask before it is resized: uint8 [H, W]."""
        height, width = self.sizes[index].tolist()
        return self._classes(index, (height, width))

    def _decoded_mask(self, index: int) -> torch.Tensor:
        height, width = self.sizes[index].tolist()
        top, left, rows, columns = window_of(height, width, self.shape[1:], self.resize)
        mask_HW = torch.full(self.shape[1:], IGNORE, dtype=torch.uint8)
        mask_HW[top : top + rows, left : left + columns] = self._classes(index, (rows, columns))
        return mask_HW

    def _classes(self, index: int, size: tuple[int, int]) -> torch.Tensor:
        found = read_mask(self._mask_paths[index])
        if found.error:
            raise UserError(f"cannot read the mask '{self._mask_paths[index]}': {found.error}; repair or remove it")
        return torch.from_numpy(self._lookup[fitted(found, self._turn_of[index], size)])


def _misfit(mask: MaskFile, source: FolderSource, row: int) -> str:
    (height, width), orientation = source.sizes[row].tolist(), int(source.orientations[row])
    shown = f" as shown, turned by its EXIF orientation {orientation}" if orientation > 1 else ""
    return "it is {} x {} pixels".format(*mask.size) + f" and its image {height} x {width}{shown}"


def find_masks(root: str) -> ImageFiles:
    """The images of a mask folder, each with its mask and its label.

    Parts are folders named ``train``, ``val``, ``test`` (see `part_of`): in the root, each with ``images/``,
    ``masks/`` and its own ``labels.csv``, or within ``images/`` and ``masks/``. The id of an image is its path below
    ``images/``, with the part's folder before it where each part has its own ``images/``. A file or folder that is
    missing and names that do not match are UserErrors.
    """
    top = Path(root)
    parts = by_part(folders_in(top), "mask_folder") if top.is_dir() else {}
    found, left_out = ImageFiles(), Counter[str]()
    if any(_piece(top, name).exists() for name in ("images", "masks")) or not parts:
        _add(found, top, "", left_out)
        found.part_of = _parts_within(_piece(top, "images"), found.ids)
    else:
        if other := next((each for each in folders_in(top) if part_of(each.name) is None), None):
            beside = ", ".join(each.name for each in parts.values())
            raise UserError(
                f"mask_folder: the folder '{other.name}' beside {beside} in '{root}' is not one of the parts train, "
                "val and test; move it elsewhere"
            )
        found.part_of = []
        for part, folder in sorted(parts.items(), key=lambda item: item[1]):
            _add(found, folder, f"{folder.name}/", left_out)
            found.part_of += [part] * (len(found.ids) - len(found.part_of))
    if found.part_of is not None and "train" not in found.part_of:
        raise UserError(f"mask_folder: '{root}' has {', '.join(sorted(set(found.part_of)))} but no train part")
    where = _piece(top, "labels.csv") if _piece(top, "labels.csv").exists() else top
    if (n := len(class_names(str(where), found.labels))) < 2:
        raise UserError(f"'{where}' has {n} label(s); a classifier needs two or more")
    if twice := next((path for path, n in Counter(found.masks).items() if n > 1), None):
        pair = [each for each, mask in zip(found.ids, found.masks, strict=True) if mask == twice][:2]
        raise UserError(f"mask_folder: '{twice}' would be the mask of both '{pair[0]}' and '{pair[1]}'; rename one")
    found.notes = [*left_out_line("mask_folder", left_out), *found.notes]
    return found


def _piece(folder: Path, name: str) -> Path:
    """The file or folder of that name in any case, or the path where it should be."""
    exact = folder / name
    if exact.exists() or not folder.is_dir():
        return exact
    return next((path for path in sorted(folder.iterdir()) if path.name.casefold() == name), exact)


def _add(found: ImageFiles, folder: Path, prefix: str, left_out: Counter[str]) -> None:
    pieces = {name: _piece(folder, name) for name in ("images", "masks", "labels.csv")}
    for path in pieces.values():
        if not path.exists():
            raise UserError(f"mask_folder: '{path}' does not exist; {LAYOUT}")
    table = pieces["labels.csv"]
    label_of = read_labels(table)
    images = images_below(pieces["images"], left_out)
    if not images:
        raise UserError(
            "; ".join([f"mask_folder: no image in '{pieces['images']}'", *left_out_line("it", left_out), LAYOUT])
        )
    names = [path.relative_to(pieces["images"]).as_posix() for path in images]
    row_of = {_key(row): row for row in label_of}
    for name in names:
        row = name if name in label_of else row_of.get(_key(name))
        if row is None:
            raise UserError(f"mask_folder: '{table}' has no label for '{name}'{nearest(name, list(label_of))}")
        found.labels.append(label_of[row])
    keys = {_key(name) for name in names}
    if missing := next((row for row in label_of if _key(row) not in keys), None):
        raise UserError(f"mask_folder: '{table}' names '{missing}', which is not in '{pieces['images']}'")
    masks = _Masks(pieces["masks"])
    paths = [masks.of(name) for name in names]
    if unused := sorted(masks.files - set(paths)):
        found.notes.append(
            f"mask_folder: left out {len(unused):,} file(s) of '{pieces['masks']}' that belong to no image, such as "
            f"'{unused[0].name}'"
        )
    found.paths += images
    found.masks += paths
    found.ids += [prefix + name for name in names]


def _parts_within(images: Path, ids: list[str]) -> list[str] | None:
    """The part of each image if the folders in ``images/`` are parts, else None."""
    if not by_part(folders_in(images), "mask_folder"):
        return None
    found = []
    for each in ids:
        first, slash, _ = each.partition("/")
        part = part_of(first) if slash else None
        if part is None:
            where = f"the folder '{first}'" if slash else f"the image '{first}'"
            raise UserError(
                f"mask_folder: {where} in '{images}' belongs to none of the parts that lie there; move it into one, or "
                "rename the folders if they are not parts"
            )
        found.append(part)
    return found


def _key(name: str) -> str:
    """A path below ``images/`` or ``masks/`` in the form that is compared: composed Unicode, parts by one name."""
    first, slash, rest = normal(name).partition("/")
    return f"{part_of(first) or first}/{rest}" if slash else first


class _Masks:
    """The files of a masks folder by the names that find them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.files = {path for path in sorted(folder.rglob("*")) if path.is_file() and not is_dropping(path.name)}
        self._by_name: dict[str, Path] = {}
        self._by_stem: dict[str, list[Path]] = {}
        for path in sorted(self.files):
            key = _key(path.relative_to(folder).as_posix())
            self._by_name[key] = path
            self._by_stem.setdefault(_stem(key), []).append(path)

    def of(self, name: str) -> Path:
        """The mask of an image: its name, or that with another ending, ``.png`` first, or with ``.png`` appended.

        The last is how this suite names predicted masks.
        """
        key = _key(name)
        for each in (key, f"{_stem(key)}.png", f"{key}.png"):
            if each in self._by_name:
                return self._by_name[each]
        others = self._by_stem.get(_stem(key), [])
        if len(others) > 1:
            names = " and ".join(f"'{each.name}'" for each in others[:2])
            raise UserError(f"mask_folder: the image '{name}' has two masks, {names}; keep one")
        if not others:
            png = Path(name).with_suffix(".png").name
            same = self._folder / name
            raise UserError(f"mask_folder: the image '{name}' has no mask: neither '{same}' nor '{png}' exists")
        return others[0]


def _stem(key: str) -> str:
    folder, slash, name = key.rpartition("/")
    return f"{folder}{slash}{Path(name).stem}"


def read_labels(path: Path) -> dict[str, str]:
    """The label of each file, from the columns ``file`` and ``label`` of a table; wrong rows are a UserError."""
    frame = read_frame(path)
    for column in ("file", "label"):
        if column not in frame:
            raise UserError(
                f"'{path}' has no column '{column}': its first line is {','.join(frame)}, and should be file,label"
            )
    found: dict[str, str] = {}
    for row, (name, label) in enumerate(zip(as_text(frame, "file"), as_text(frame, "label"), strict=True)):
        if name is None or label is None or not label.strip():
            line = line_of(path, row)
            raise UserError(f"'{path}', line {line} is '{name or ''},{label or ''}'; it needs a file and a label")
        if name in found:
            raise UserError(f"'{path}', line {line_of(path, row)}: duplicate file '{name}'")
        found[name] = label
    return found
