import numpy as np
import pytest
import torch
from hypothesis import settings

from image_files import save_image
from plcourse.data import ArraySource, open_source

# a timing is a benchmark, never a test
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def mnist5k():
    return open_source("mnist5k")


@pytest.fixture(scope="session")
def digits():
    return open_source("digits")


@pytest.fixture(scope="session")
def make_source():
    """A source whose sample i shows the content number contents[i]: equal numbers are exact duplicates."""

    def make(contents, labels, parts=None):
        contents = np.asarray(contents, np.int64)
        pixels = contents[:, None].view(np.uint8).reshape(-1, 1, 2, 4)
        ids = [f"made/{i}" for i in range(len(contents))]
        names = [f"class{i}" for i in range(int(max(labels)) + 1)]
        return ArraySource("made", ids, torch.from_numpy(pixels.copy()), np.asarray(labels), names, parts)

    return make


@pytest.fixture
def gray_root(mnist5k, tmp_path):
    """Ten digits of each of the classes one, two, three, 28x28 gray PNG files."""
    for label, name in ((1, "one"), (2, "two"), (3, "three")):
        for i, index in enumerate(np.flatnonzero(mnist5k.labels == label)[:10]):
            save_image(tmp_path / name / f"{i:02d}.png", mnist5k.images[index, 0].numpy())
    return tmp_path
