"""An augmentation for images with masks.

The classifier gains from it. The segmenter, on the same batches, gets worse. Mend it.
"""

import torch
from torch import Tensor


def flipped(image_CHW: Tensor, mask_HW: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The image and its mask, mirrored left to right in half of the cases.

    Args:
        image_CHW: float [C, H, W].
        mask_HW: int64 [H, W], the class of each pixel.
        generator: of the random numbers.
    """
    if torch.rand((), generator=generator) < 0.5:
        image_CHW = image_CHW.flip(-1)
    if torch.rand((), generator=generator) < 0.5:
        mask_HW = mask_HW.flip(-2)
    return image_CHW, mask_HW
