"""Digits on photographs: images with a class and an exact mask each, made from the data of two dependencies."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from plcourse.data.randoms import keys_of, uniforms
from plcourse.data.resize import ImageSize, Resize, size_of
from plcourse.data.sources import ArraySource, open_source, package_file
from plcourse.data.splits import split
from plcourse.errors import UserError

_PHOTOS = ("china.jpg", "flower.jpg")
# fractions of a photograph's width; no pixel of a photograph is in two parts
_REGIONS = {"train": (0.0, 0.6), "val": (0.6, 0.75), "test": (0.75, 1.0)}
_INK = 128  # the smallest value of a pixel that belongs to the digit


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
    crops of the training, validation and test part come from separate regions of the photographs.

    Args:
        size: height and width in pixels, 8 to 200, or one number for both.
        val_size: digits for validation; see `plcourse.data.splits.split`.
        test_size: the same for the test part.
        split_seed: another seed gives another split.
        resize: how a digit is resized.
    """
    rows, columns = size_of(size)
    if not 8 <= min(rows, columns) <= max(rows, columns) <= 200:
        raise ValueError(f"image_size={size}: digits_on_photos takes 8 to 200 pixels")
    digits = open_source("mnist5k", image_size=(rows, columns), resize=resize)
    parts = split(digits, val_size, test_size, split_seed)
    ink_NHW = digits.read(np.arange(len(digits.ids)))[:, 0].numpy()
    photos = [np.asarray(Image.open(_photo(name)).convert("RGB")) for name in _PHOTOS]
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


def _photo(name: str) -> Path:
    path = package_file("sklearn", f"datasets/images/{name}")
    if path is None:
        raise UserError(
            f"scikit-learn no longer contains the photograph {name}; install the version in constraints.txt"
        )
    return path
