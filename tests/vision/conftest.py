"""A folder of images and masks as a user would have it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SHAPES = ("disc", "bar", "cross")


def picture(shape: int, rng: np.random.Generator, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A colored figure on noise, and its mask; class 1 is the figure, class 2 its middle."""
    image = rng.integers(0, 120, (height, width, 3)).astype(np.uint8)
    y, x = np.mgrid[:height, :width]
    dy, dx = y - height / 2, x - width / 2
    figure = [dy**2 + dx**2 < (height / 3) ** 2, abs(dy) < height / 8, (abs(dy) < 3) | (abs(dx) < 3)][shape]
    image[figure] = (250, 200 - 60 * shape, 40)
    mask = figure.astype(np.uint8)
    mask[(abs(dy) < 2) & (abs(dx) < 2)] = 2
    return image, mask


@pytest.fixture
def mask_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder as `mask_folder` reads it: three classes, three classes of a pixel."""

    def make(name: str = "own", n: int = 30, sizes: tuple[tuple[int, int], ...] = ((24, 24),)) -> Path:
        root = tmp_path / name
        rng = np.random.default_rng(0)
        for folder in ("images", "masks"):
            (root / folder).mkdir(parents=True)
        lines = ["file,label"]
        for i in range(n):
            shape = i % len(SHAPES)
            image, mask = picture(shape, rng, *sizes[i % len(sizes)])
            Image.fromarray(image).save(root / "images" / f"{i:03d}.png")
            Image.fromarray(mask).save(root / "masks" / f"{i:03d}.png")
            lines.append(f"{i:03d}.png,{SHAPES[shape]}")
        (root / "labels.csv").write_text("\n".join(lines) + "\n")
        return root

    return make
