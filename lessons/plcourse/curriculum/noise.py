"""Labels made wrong on purpose, to see what a curriculum does about them."""

import numpy as np

from plcourse.data import uniforms


def noisy_labels(labels: np.ndarray, keys: np.ndarray, num_classes: int, share: float, seed: int) -> np.ndarray:
    """Replaces the labels of a share of the samples, each by one of the other classes, all equally likely.

    Args:
        labels: int64 [N].
        keys: uint64 [N], of `keys_of`.
        num_classes: classes, 2 or more where `share` is above 0.
        share: of the samples; rounded to a whole number of them.
        seed: which samples and which labels.

    Returns:
        int64 [N], a copy.
    """
    draws = uniforms(seed, 0, keys, 2)
    wrong = np.argsort(draws[:, 0], kind="stable")[: round(share * len(labels))]
    shift = 1 + (draws[wrong, 1] * (num_classes - 1)).astype(np.int64)
    noisy = labels.copy()
    noisy[wrong] = (noisy[wrong] + shift) % num_classes
    return noisy
