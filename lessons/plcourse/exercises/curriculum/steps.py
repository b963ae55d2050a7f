"""The batches of one epoch of a curriculum.

The arm without a curriculum takes ceil(N / batch_size) optimizer steps per epoch. This one takes fewer while few
samples are admitted, and so the comparison of the two is none. Make the epochs equally long.
"""

from collections.abc import Iterator

import numpy as np


def batches(admitted: np.ndarray, n: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """The batches of one epoch, each the numbers of its samples.

    Args:
        admitted: the samples that may be drawn, 1 or more.
        n: all samples of the training part, those that wait included.
        batch_size: samples per batch, at most; only the epoch's last batch may have fewer.
        seed: fixes the order.
    """
    order = np.random.default_rng(seed).permutation(admitted)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
