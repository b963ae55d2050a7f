"""A solution of the exercise vision/flip."""

import torch
from torch import Tensor


def flipped(image_CHW: Tensor, mask_HW: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mirrors an image and its mask left to right in half of the cases.

    Args:
        image_CHW: float [C, H, W].
        mask_HW: the class of each pixel, int64 [H, W].
        generator: the random number generator.
    """
    if torch.rand((), generator=generator) < 0.5:
        return image_CHW.flip(-1), mask_HW.flip(-1)
    return image_CHW, mask_HW
