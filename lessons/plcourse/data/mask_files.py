"""Reads mask files: one integer per pixel, without loss, and turned as the image that they belong to.

Shape suffixes: H height, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from plcourse.data.decode import (
    DECODE_ERRORS,
    check_size,
    has_frames,
    has_orientation,
    orientation_of,
    reason_of,
    turned,
)

IGNORE = 255
_INTEGER_MODES = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N")
_LOSSY = ("JPEG", "MPO", "AVIF")
_SHOWN = 5  # values named in a message
_NUMBERED = 64  # values 0, 1, 2, ... up to so many are classes, however thin their areas are


@dataclass(frozen=True)
class MaskFile:
    """What is known of a mask file.

    Attributes:
        pixels: uint8 [H, W], the values; empty where only the rest was asked for, and where it cannot be read.
        size: height and width, upright by the file's own orientation.
        tagged: whether it says itself how it is to be turned.
        values: the values that it has.
        solid: those that fill a square of 2 x 2 pixels somewhere, as areas do and smoothed edges do not.
        lossy: whether its format smears values.
        error: why it is no mask.
    """

    pixels: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.uint8))
    size: tuple[int, int] = (0, 0)
    tagged: bool = False
    values: frozenset[int] = frozenset()
    solid: frozenset[int] = frozenset()
    lossy: bool = False
    error: str = ""


def read_mask(path: Path) -> MaskFile:
    """The values of a mask file; of an image with a palette, the numbers in the palette."""
    try:
        with Image.open(path) as image:
            check_size(image)
            if has_frames(image):
                raise ValueError("it has several frames or pages, and a mask has one")
            lossy = image.format in _LOSSY or (image.format == "WEBP" and not _is_lossless_webp(path))
            tagged = image.format == "TIFF" and has_orientation(image)  # turned, and forgotten, while it is decoded
            image.load()
            tagged = tagged or has_orientation(image)
            values_HW = _integers(image)
            least, most = int(values_HW.min()), int(values_HW.max())
            if most > IGNORE or least < 0:
                bad = most if most > IGNORE else least
                raise ValueError(f"it has the value {bad}; classes are 0 to 254, 255 is none")
            upright = turned(Image.fromarray(values_HW.astype(np.uint8)), orientation_of(image))
    except DECODE_ERRORS as error:
        return MaskFile(error=reason_of(error))
    pixels_HW = np.array(upright)
    corner_HW = pixels_HW[1:, 1:]
    even_HW = (corner_HW == pixels_HW[:-1, 1:]) & (corner_HW == pixels_HW[1:, :-1]) & (corner_HW == pixels_HW[:-1, :-1])
    height, width = pixels_HW.shape
    return MaskFile(pixels_HW, (height, width), tagged, _found(pixels_HW), _found(corner_HW[even_HW]), lossy)


def fitted(mask: MaskFile, orientation: int, size: tuple[int, int]) -> np.ndarray:
    """A mask's values, turned by `orientation` and scaled to `size` (height, width) by the nearest: uint8 [H, W]."""
    pixels_HW = np.array(turned(Image.fromarray(mask.pixels), orientation))
    if pixels_HW.shape != size:
        scaled = functional.interpolate(torch.from_numpy(pixels_HW)[None, None].double(), size, mode="nearest-exact")
        pixels_HW = scaled[0, 0].numpy().astype(np.uint8)
    return pixels_HW


def turns(
    masks: Sequence[MaskFile], sizes: np.ndarray, orientations: np.ndarray, name: str
) -> tuple[list[int | None], list[str]]:
    """How each mask is to be turned so that it lies on its image, which is turned by its EXIF orientation.

    A mask of the size in which the image is shown lies on it as shown; one of the stored size is turned with it. Where
    both sizes are equal the mask's own EXIF orientation decides, then the other masks of the folder if they all have
    the stored size; else the mask lies on the image as shown.

    Args:
        masks: N masks.
        sizes: int64 [N, 2], height and width of each image as shown.
        orientations: int64 [N], the EXIF orientation of each image.
        name: the source's name.

    Returns:
        The orientation to turn each mask by, None where it fits neither way; and lines that say what was decided.
    """
    found: list[int | None] = []
    either, as_shown = [], 0
    for i, (mask, (height, width), orientation) in enumerate(
        zip(masks, sizes.tolist(), orientations.tolist(), strict=True)
    ):
        stored = (width, height) if orientation >= 5 else (height, width)
        if mask.size == (height, width):
            found.append(1)
            as_shown += mask.size != stored
            if mask.size == stored and orientation > 1 and not mask.tagged:
                either.append(i)
        else:
            found.append(orientation if mask.size == stored else None)
    as_stored = sum(turn is not None and turn > 1 for turn in found)
    notes = []
    if as_stored:
        notes.append(
            f"{name}: {as_stored:,} masks have the size in which their images are stored, and are turned with them by "
            "the images' EXIF orientation"
        )
    if either:
        turn_too = as_stored > 0 and not as_shown
        if turn_too:
            for i in either:
                found[i] = int(orientations[i])
        how = "are turned with them, as the other masks are" if turn_too else "are taken to lie on the images as shown"
        notes.append(
            f"{name}: {len(either):,} images have an EXIF orientation and a mask that fits them turned and unturned; "
            f"these masks {how} (an EXIF orientation in the mask file would decide)"
        )
    return found, notes


def smeared(masks: Sequence[MaskFile], listed: Sequence[int] | None = None) -> dict[int, str]:
    """Why masks do not hold one value per class, by their positions: saved with loss, or with smoothed edges.

    Args:
        masks: masks of one folder.
        listed: the values that the user says there are.
    """
    known = frozenset(listed if listed is not None else (0, IGNORE)) | {IGNORE}
    lossy = {i: mask for i, mask in enumerate(masks) if mask.lossy}
    lost = len(frozenset().union(*(mask.values for mask in lossy.values()))) == 1  # 0 and 1 become one value
    found = {
        i: f"its format compresses with loss, and it has {_count(mask.values)}; save masks as PNG"
        for i, mask in lossy.items()
        if lost or not mask.values <= known
    }
    values = frozenset().union(*(mask.values for mask in masks))
    solid = frozenset().union(*(mask.solid for mask in masks))
    soft, classes = values - solid - known, values - {IGNORE}
    numbered = max(classes, default=0) + 1 == len(classes) <= _NUMBERED
    if not numbered and len(soft) >= 3 and len(soft) > len(solid - known):
        for i, mask in enumerate(masks):
            if mask.values & soft:
                found.setdefault(
                    i,
                    f"it has {_count(mask.values)}, most of which occur at edges only, as in a mask that was smoothed, "
                    "interpolated or saved with loss; save one value per class as PNG",
                )
    return dict(sorted(found.items()))


def _integers(image: Image.Image) -> np.ndarray:
    """[H, W]; grey saved as colours is taken as grey."""
    if image.mode in _INTEGER_MODES:
        return np.asarray(image)
    if image.mode not in ("LA", "RGB", "RGBA"):
        raise ValueError(f"its pixels have the mode {image.mode}, and a mask has one integer per pixel")
    channels_HWC = np.asarray(image)
    if image.mode in ("LA", "RGBA"):
        if channels_HWC[..., -1].min() < 255:
            raise ValueError("it has transparent pixels, and a mask has one integer per pixel")
        channels_HWC = channels_HWC[..., :-1]
    if not (channels_HWC == channels_HWC[..., :1]).all():
        n = len(np.unique(channels_HWC.reshape(-1, 3), axis=0))
        raise ValueError(
            f"it has {n} colours (mode {image.mode}), and a mask has one integer per pixel; save the numbers of the "
            "classes, in grey or with a palette"
        )
    return channels_HWC[..., 0]


def _is_lossless_webp(path: Path) -> bool:
    with path.open("rb") as file:
        return b"VP8L" in file.read(64)


def _found(pixels: np.ndarray) -> frozenset[int]:
    return frozenset(np.flatnonzero(np.bincount(pixels.reshape(-1), minlength=256)).tolist())


def _count(values: frozenset[int]) -> str:
    shown = ", ".join(map(str, sorted(values)[:_SHOWN])) + (", ..." if len(values) > _SHOWN else "")
    return f"{len(values)} value{'s' * (len(values) > 1)} ({shown})"
