"""A solution of the exercise curriculum/steps."""

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
    draws = np.random.default_rng(seed)
    rounds = -(-n // len(admitted))
    order = np.concatenate([draws.permutation(admitted) for _ in range(rounds)])[:n]
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
