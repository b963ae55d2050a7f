"""The batches of one epoch of a curriculum.

The baseline without a curriculum takes ceil(N / batch_size) optimizer steps per epoch. This curriculum takes fewer
while few samples are admitted, so the comparison is unfair. Make the epochs equally long.
"""

from collections.abc import Iterator

import numpy as np


def batches(admitted: np.ndarray, n: int, batch_size: int, seed: int) -> Iterator[np.ndarray]:
    """Yields the batches of one epoch, each an array of sample indices.

    Args:
        admitted: indices of the samples that may be drawn, 1 or more.
        n: number of training samples, admitted or not.
        batch_size: samples per batch; only the epoch's last batch may be smaller.
        seed: determines the order.
    """
    order = np.random.default_rng(seed).permutation(admitted)
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
