import numpy as np
import pytest
import torch
from hypothesis import settings

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
