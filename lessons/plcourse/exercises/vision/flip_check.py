"""Checks `flip`."""

from types import ModuleType

import torch
from torch import Tensor


def _drawn(answer: ModuleType, times: int = 60) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """Returns an image whose channels equal its mask, the mask, and many augmented versions of both."""
    mask = torch.arange(30).reshape(5, 6)
    image = mask.float().expand(3, 5, 6).clone()
    generator = torch.Generator().manual_seed(0)
    return image, mask, [answer.flipped(image.clone(), mask.clone(), generator) for _ in range(times)]


def check_together(answer: ModuleType) -> None:
    """Image and mask are changed in the same way."""
    _, _, drawn = _drawn(answer)
    apart = sum(not torch.equal(image[0], mask.float()) for image, mask in drawn)
    assert apart == 0, f"in {apart} of {len(drawn)} cases the mask does not match the image"


def check_mirrored(answer: ModuleType) -> None:
    """About half of the images are mirrored left to right, and the others are unchanged."""
    image, _, drawn = _drawn(answer)
    mirrored = sum(torch.equal(each, image.flip(-1)) for each, _ in drawn)
    kept = sum(torch.equal(each, image) for each, _ in drawn)
    assert mirrored + kept == len(drawn), f"{len(drawn) - mirrored - kept} images are neither unchanged nor mirrored"
    assert 15 <= mirrored <= 45, f"{mirrored} of {len(drawn)} images are mirrored"


def check_classes(answer: ModuleType) -> None:
    """Masks keep their type and shape."""
    _, mask, drawn = _drawn(answer, 4)
    for _, each in drawn:
        assert (each.dtype, each.shape) == (mask.dtype, mask.shape), f"a mask of {each.dtype}, {tuple(each.shape)}"
