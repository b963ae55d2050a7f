"""Augmentation of a whole batch at once, from given uniform numbers instead of a random generator.

Each result is, bit for bit, a function of the image and of its own row of uniforms, whatever the size and the other
samples of the batch. That rules out matrix products over the batch (``affine_grid``) and vectorized sines, whose last
bit depends on the position in the array.

Shape suffixes: B batch, C channels, H height, W width, N uniforms of one augmentation.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch.nn import functional

from plcourse.data.randoms import uniforms


class Augmentation(ABC):
    """A random change of images that keeps their shape and their label."""

    n_uniforms: int  # the number of uniforms that each sample takes

    @abstractmethod
    def __call__(self, images_BCHW: torch.Tensor, uniforms_BN: np.ndarray) -> torch.Tensor:
        """The changed images as a new tensor, from `n_uniforms` float64 in [0, 1) for each sample.

        Images are float32 in [0, 1], before and after.
        """


def augment_batch(
    augment: Sequence[Augmentation], images_BCHW: torch.Tensor, seed: int, epoch: int, keys_B: np.ndarray
) -> torch.Tensor:
    """Applies augmentations in order to float32 images in [0, 1], each with other draws from (seed, epoch, key)."""
    draws = uniforms(seed, epoch, keys_B, sum(each.n_uniforms for each in augment))
    start = 0
    for each in augment:
        images_BCHW = each(images_BCHW, draws[:, start : start + each.n_uniforms])
        start += each.n_uniforms
    return images_BCHW


class RandomAffine(Augmentation):
    """Rotates, shifts, scales and shears about the image's center, with bilinear sampling and black borders.

    Args:
        degrees: rotation, uniform in [-degrees, degrees].
        translate: shift along each axis as a fraction of its length, uniform in [-translate, translate].
        scale: smallest and largest magnification, uniform between them.
        shear: horizontal shear angle in degrees, uniform in [-shear, shear].

    Raises:
        ValueError: an argument out of its range.
    """

    n_uniforms = 5

    def __init__(
        self, degrees: float = 10.0, translate: float = 0.1, scale: tuple[float, float] = (0.9, 1.1), shear: float = 0.0
    ) -> None:
        if not 0 <= degrees <= 180:
            raise ValueError(f"degrees={degrees}: give 0 to 180")
        if not 0 <= translate <= 1:
            raise ValueError(f"translate={translate}: give a fraction of the image, 0 to 1")
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale={scale}: give the smallest and the largest magnification, both above 0")
        if not 0 <= shear < 90:
            raise ValueError(f"shear={shear}: give degrees, 0 to below 90")
        self.degrees = degrees
        self.translate = translate
        self.scale = scale
        self.shear = shear

    def __call__(self, images_BCHW: torch.Tensor, uniforms_BN: np.ndarray) -> torch.Tensor:
        """See `Augmentation`."""
        height, width = images_BCHW.shape[-2:]
        signed_BN = 2.0 * uniforms_BN - 1.0
        angle_B = signed_BN[:, 0] * math.radians(self.degrees)
        cos_B, sin_B = _each(math.cos, angle_B), _each(math.sin, angle_B)
        tan_B = _each(math.tan, signed_BN[:, 4] * math.radians(self.shear))
        zoom_B = self.scale[0] + uniforms_BN[:, 3] * (self.scale[1] - self.scale[0])
        # from output to input pixels, counted from the center: undo shift, rotation, shear and zoom in turn
        x_BW = _centered(width) - _column(signed_BN[:, 1] * (self.translate * width))
        y_BH = _centered(height) - _column(signed_BN[:, 2] * (self.translate * height))
        # grid_sample counts from -1 to 1 over the whole width and height
        to_x_B, to_y_B = 2 / (width * zoom_B), 2 / (height * zoom_B)
        xx_B, xy_B = _column((cos_B + tan_B * sin_B) * to_x_B), _column((sin_B - tan_B * cos_B) * to_x_B)
        yx_B, yy_B = _column(-sin_B * to_y_B), _column(cos_B * to_y_B)
        grid_BHW2 = torch.empty(len(images_BCHW), height, width, 2)
        torch.add((xx_B * x_BW)[:, None, :], (xy_B * y_BH)[:, :, None], out=grid_BHW2[..., 0])
        torch.add((yx_B * x_BW)[:, None, :], (yy_B * y_BH)[:, :, None], out=grid_BHW2[..., 1])
        return functional.grid_sample(images_BCHW, grid_BHW2, mode="bilinear", align_corners=False)


class RandomFlip(Augmentation):
    """Mirrors an image with probability `p`.

    Args:
        p: the probability, 0 to 1.
        direction: ``horizontal`` swaps left and right, ``vertical`` top and bottom.

    Raises:
        ValueError: an argument out of its range.
    """

    n_uniforms = 1

    def __init__(self, p: float = 0.5, direction: Literal["horizontal", "vertical"] = "horizontal") -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p={p}: give a probability, 0 to 1")
        if direction not in ("horizontal", "vertical"):
            raise ValueError(f"direction={direction!r}: give 'horizontal' or 'vertical'")
        self.p = p
        self.direction = direction

    def __call__(self, images_BCHW: torch.Tensor, uniforms_BN: np.ndarray) -> torch.Tensor:
        """See `Augmentation`."""
        flipped_B = torch.from_numpy(uniforms_BN[:, 0] < self.p)[:, None, None, None]
        return torch.where(flipped_B, images_BCHW.flip(-1 if self.direction == "horizontal" else -2), images_BCHW)


class RandomCrop(Augmentation):
    """Shifts by whole pixels: pads with black on every side and crops a window of the old size.

    Args:
        padding: pixels added to each side, the largest possible shift.

    Raises:
        ValueError: a negative padding.
    """

    n_uniforms = 2

    def __init__(self, padding: int = 4) -> None:
        if padding < 0:
            raise ValueError(f"padding={padding}: give 0 or more pixels")
        self.padding = padding

    def __call__(self, images_BCHW: torch.Tensor, uniforms_BN: np.ndarray) -> torch.Tensor:
        """See `Augmentation`."""
        padded_BCHW = functional.pad(images_BCHW, (self.padding,) * 4).numpy()
        row_B, column_B = (uniforms_BN * (2 * self.padding + 1)).astype(np.int64).T
        windows = np.lib.stride_tricks.sliding_window_view(padded_BCHW, images_BCHW.shape[-2:], axis=(2, 3))
        return torch.from_numpy(windows[np.arange(len(padded_BCHW)), :, row_B, column_B])


def _each(function: Callable[[float], float], values_B: np.ndarray) -> np.ndarray:
    """`function` of every value by the scalar library, whose result does not depend on the position in an array."""
    return np.fromiter(map(function, values_B.tolist()), np.float64, len(values_B))


def _column(values_B: np.ndarray) -> torch.Tensor:
    """float32 [B, 1]."""
    return torch.from_numpy(values_B.astype(np.float32))[:, None]


def _centered(n: int) -> torch.Tensor:
    """The positions of n pixels relative to their center: float32 [n]."""
    return torch.arange(n, dtype=torch.float32) - (n - 1) / 2
