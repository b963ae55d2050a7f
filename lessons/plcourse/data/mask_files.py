"""Reads mask files, which hold one integer per pixel, and turns them as their images.

Shape suffixes: H height, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from plcourse.data.decode import DECODE_ERRORS, ORIENTATION, check_size, has_frames, orientation_of, reason_of, turned

IGNORE = 255
NO_PIXELS = np.empty((0, 0), np.uint8)
_INTEGER_MODES = ("1", "L", "P", "I", "I;16", "I;16L", "I;16B", "I;16N")
_LOSSY = ("JPEG", "MPO", "AVIF")
_SHOWN = 5  # values named in a message
_NUMBERED = 64  # up to this many values 0, 1, 2, ... are classes, however thin their areas are


@dataclass(frozen=True)
class MaskFile:
    """The contents of a mask file."""

    pixels: np.ndarray = field(default_factory=lambda: NO_PIXELS)  # uint8 [H, W], the values; none if it is unreadable
    size: tuple[int, int] = (0, 0)  # height and width, upright by the file's own orientation
    tagged: bool = False  # whether the file has an EXIF orientation
    values: frozenset[int] = frozenset()  # the values that occur
    solid: frozenset[int] = frozenset()  # those that fill 2 x 2 pixels somewhere, as areas do and smoothed edges do not
    lossy: bool = False  # whether the format compresses with loss
    error: str = ""  # why it is not a mask; empty if it is one


def read_mask(path: Path) -> MaskFile:
    """Reads a mask file; the values of an image with a palette are the indices into the palette."""
    try:
        with Image.open(path) as image:
            check_size(image)
            if has_frames(image):
                raise ValueError("it has several frames or pages, and a mask has one")
            lossy = image.format in _LOSSY or (image.format == "WEBP" and not _is_lossless_webp(path))
            tagged = image.format == "TIFF" and ORIENTATION in image.getexif()  # decoding turns it and drops the tag
            image.load()
            tagged = tagged or ORIENTATION in image.getexif()
            values_HW = _integers(image)
            least, most = int(values_HW.min()), int(values_HW.max())
            if most > IGNORE or least < 0:
                bad = most if most > IGNORE else least
                raise ValueError(f"it has the value {bad}; classes are 0 to 254, and 255 is no class")
            upright = turned(Image.fromarray(values_HW.astype(np.uint8)), orientation_of(image))
    except DECODE_ERRORS as error:
        return MaskFile(error=reason_of(error))
    pixels_HW = np.array(upright)
    corner_HW = pixels_HW[1:, 1:]
    even_HW = (corner_HW == pixels_HW[:-1, 1:]) & (corner_HW == pixels_HW[1:, :-1]) & (corner_HW == pixels_HW[:-1, :-1])
    height, width = pixels_HW.shape
    return MaskFile(pixels_HW, (height, width), tagged, _found(pixels_HW), _found(corner_HW[even_HW]), lossy)


def fitted(mask: MaskFile, orientation: int, size: tuple[int, int]) -> np.ndarray:
    """The values of a mask, turned by `orientation` and scaled to `size` (height, width) without blending: uint8."""
    pixels_HW = np.array(turned(Image.fromarray(mask.pixels), orientation))
    if pixels_HW.shape != size:
        scaled = functional.interpolate(torch.from_numpy(pixels_HW)[None, None].double(), size, mode="nearest-exact")
        pixels_HW = scaled[0, 0].numpy().astype(np.uint8)
    return pixels_HW


def turns(
    masks: Sequence[MaskFile], sizes: np.ndarray, orientations: np.ndarray, name: str
) -> tuple[list[int | None], list[str]]:
    """How to turn each mask so that it matches its image, which is turned by its EXIF orientation.

    A mask with the size of the image as shown already matches; one with the size as stored is turned with the image. If
    the two sizes are equal, a mask that has an EXIF orientation matches; one without is turned if the other masks of
    the folder have the stored size, and otherwise matches.

    Args:
        masks: N masks.
        sizes: int64 [N, 2], height and width of each image as shown.
        orientations: int64 [N], the EXIF orientation of each image.
        name: the source's name.

    Returns:
        The orientation to turn each mask by, None if neither size fits; and lines that say what was decided.
    """
    found: list[int | None] = []
    either, as_shown = [], 0
    images = zip(sizes.tolist(), orientations.tolist(), strict=True)
    for i, (mask, ((height, width), orientation)) in enumerate(zip(masks, images, strict=True)):
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
    """The reason for each mask that does not hold one value per class because of lossy compression or smoothed edges.

    Reasons are by position in `masks`, which are those of one folder; `listed` has the values that the user lists.
    """
    known = frozenset(listed if listed is not None else (0, IGNORE)) | {IGNORE}
    lossy = {i: mask for i, mask in enumerate(masks) if mask.lossy}
    lost = len(frozenset().union(*(mask.values for mask in lossy.values()))) == 1  # compression has merged 0 and 1
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
                    f"it has {_count(mask.values)}, most of which only occur at edges, as in a mask that was smoothed, "
                    "interpolated or saved with loss; save one value per class as PNG",
                )
    return dict(sorted(found.items()))


def _integers(image: Image.Image) -> np.ndarray:
    """The values [H, W]; colors whose channels are equal count as gray."""
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
            f"it has {n} colors (mode {image.mode}), and a mask has one integer per pixel; save the numbers of the "
            "classes, in gray or with a palette"
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
