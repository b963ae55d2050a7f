"""An augmentation for images with masks.

It helps the classifier, but makes the segmenter worse on the same batches. Fix it.
"""

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
        image_CHW = image_CHW.flip(-1)
    if torch.rand((), generator=generator) < 0.5:
        mask_HW = mask_HW.flip(-2)
    return image_CHW, mask_HW
