"""Wrong labels, to see how a curriculum deals with them."""

import numpy as np

from plcourse.data import uniforms


def noisy_labels(labels: np.ndarray, keys: np.ndarray, num_classes: int, fraction: float, seed: int) -> np.ndarray:
    """A copy of the labels in which a fraction of them is replaced by another class, each equally likely.

    Args:
        labels: int64 [N].
        keys: uint64 [N], keys of the samples' ids.
        num_classes: classes, 2 or more if `fraction` is above 0.
        fraction: of the samples, rounded to a whole number of them.
        seed: fixes the samples and their new labels.
    """
    draws = uniforms(seed, 0, keys, 2)
    wrong = np.argsort(draws[:, 0], kind="stable")[: round(fraction * len(labels))]
    shift = 1 + (draws[wrong, 1] * (num_classes - 1)).astype(np.int64)
    noisy = labels.copy()
    noisy[wrong] = (noisy[wrong] + shift) % num_classes
    return noisy
