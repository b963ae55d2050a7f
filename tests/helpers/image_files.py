"""Image files as a user has them, some of them torn."""

from typing import Any

import numpy as np
from PIL import Image


def save_image(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def tear(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def noise(height, width, channels=3, seed: Any = 0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8).squeeze()


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found
