"""A solution of the exercise curriculum/steps."""

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
    draws = np.random.default_rng(seed)
    rounds = -(-n // len(admitted))
    order = np.concatenate([draws.permutation(admitted) for _ in range(rounds)])[:n]
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
