"""Albumentations from YAML, applied to image and mask together; no other module uses this library.

Each sample's random generator is seeded from (seed, epoch, sample), so results do not depend on the number of workers
or processes, nor on a resume.
"""

import os
import random
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from plcourse.data.randoms import uniforms
from plcourse.errors import UserError, nearest

Transforms = Sequence[dict[str, dict[str, Any] | None]]


class Albumentations:
    """Transforms of albumentations by name, with their arguments::

        augment:
          class_path: Albumentations
          init_args:
            transforms:
            - Affine: {rotate: [-10, 10], scale: [0.9, 1.1]}
            - RandomBrightnessContrast: {p: 0.3}

    Args:
        transforms: names with arguments, applied in this order; see the reference of albumentations 2.0. Mask pixels
            that a transform uncovers become class 0 unless its ``fill_mask`` says otherwise; 255 is ignored.

    Raises:
        UserError: a transform or argument is unknown, or changes the size of an image.
    """

    def __init__(self, transforms: list[dict[str, dict[str, Any] | None]]) -> None:
        self.transforms = transforms
        _ = self._pipeline  # reports errors before training

    def __getstate__(self) -> dict[str, Any]:
        return {"transforms": self.transforms}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.transforms = state["transforms"]

    @cached_property
    def _pipeline(self) -> Any:
        library = _library()
        return library.Compose([_transform(library, each) for each in self.transforms])

    def __call__(
        self, images_BCHW: torch.Tensor, masks_BHW: torch.Tensor, seed: int, epoch: int, keys_B: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `plcourse.data.JointAugmentation`."""
        pipeline = self._pipeline
        seeds_B = (uniforms(seed, epoch, keys_B, 1)[:, 0] * 2**53).astype(np.int64).tolist()
        image_BHWC = images_BCHW.permute(0, 2, 3, 1).contiguous().numpy()
        mask_BHW = masks_BHW.numpy()
        images, masks = np.empty_like(image_BHWC), np.empty_like(mask_BHW)
        for i, each in enumerate(seeds_B):
            # one generator for all transforms: `set_random_seed` would give each of them the same draws
            pipeline.set_random_state(np.random.default_rng(each), random.Random(each))
            changed = pipeline(image=image_BHWC[i], mask=mask_BHW[i])
            if changed["mask"].shape != masks.shape[1:]:
                raise UserError(
                    f"data.init_args.augment changes the image size from {masks.shape[1:]} to {changed['mask'].shape}; "
                    "set the size by data.init_args.image_size"
                )
            images[i], masks[i] = changed["image"].reshape(images.shape[1:]), changed["mask"]
        return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks)


def _library() -> Any:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # its import would look for a newer release online
    import albumentations
    import cv2

    cv2.setNumThreads(0)  # its threads compete with torch's and do not survive a fork
    return albumentations


def _transform(library: Any, named: dict[str, dict[str, Any] | None]) -> Any:
    if not isinstance(named, dict) or len(named) != 1:
        raise UserError(f"data.init_args.augment: {named!r} is not a transform; write NAME: {{ARGUMENT: VALUE}}")
    ((name, arguments),) = named.items()
    known = [each for each in dir(library) if _is_transform(library, each)]
    if name not in known:
        raise UserError(f"data.init_args.augment: albumentations has no transform '{name}'{nearest(name, known)}")
    try:
        # without strict, an unknown argument only warns and the transform runs without it
        return getattr(library, name)(**{**(arguments or {}), "strict": True})
    except (ValueError, TypeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise UserError(f"data.init_args.augment: {name}: {' '.join(lines[:3])}") from error


def _is_transform(library: Any, name: str) -> bool:
    found = getattr(library, name)
    return isinstance(found, type) and issubclass(found, library.BasicTransform) and "apply" in dir(found)
