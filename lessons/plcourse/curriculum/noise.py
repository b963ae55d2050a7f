"""Wrong labels, to see how a curriculum deals with them."""

import numpy as np

from plcourse.data import uniforms


def noisy_labels(labels: np.ndarray, keys: np.ndarray, num_classes: int, fraction: float, seed: int) -> np.ndarray:
    """A copy of the labels (int64 [N]) in which a fraction is replaced by another class, each equally likely.

    The samples and their new labels depend on the seed and on the keys of the samples' ids (uint64 [N]) alone.
    """
    draws = uniforms(seed, 0, keys, 2)
    wrong = np.argsort(draws[:, 0], kind="stable")[: round(fraction * len(labels))]
    shift = 1 + (draws[wrong, 1] * (num_classes - 1)).astype(np.int64)
    noisy = labels.copy()
    noisy[wrong] = (noisy[wrong] + shift) % num_classes
    return noisy
