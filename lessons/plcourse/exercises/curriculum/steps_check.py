"""Checks `steps`."""

from types import ModuleType

import numpy as np

_CASES = [(100, 16, 7), (100, 16, 50), (100, 16, 100), (64, 64, 10), (10, 3, 1)]


def check_equal_steps(answer: ModuleType) -> None:
    """An epoch has as many batches and as many samples as one without a curriculum."""
    for n, size, count in _CASES:
        sizes = [len(batch) for batch in answer.batches(np.arange(count), n, size, 0)]
        wanted = -(-n // size)
        assert len(sizes) == wanted, f"{count} of {n} admitted, batches of {size}: {len(sizes)} of {wanted} batches"
        assert sum(sizes) == n, f"{count} of {n} admitted: {sum(sizes)} samples drawn"
        assert all(each == size for each in sizes[:-1]), f"{count} of {n} admitted: batches of {sizes}"


def check_only_admitted(answer: ModuleType) -> None:
    """Only admitted samples are drawn, and all of them equally often, give or take one."""
    for n, size, count in _CASES:
        admitted = np.arange(count) * 3 + 1
        drawn = np.concatenate(list(answer.batches(admitted, n, size, 0)))
        assert np.isin(drawn, admitted).all(), "a sample that is not admitted was drawn"
        times = [int((drawn == number).sum()) for number in admitted]
        assert max(times) - min(times) <= 1, f"{count} of {n} admitted: one drawn {min(times)}x, another {max(times)}x"


def check_seed(answer: ModuleType) -> None:
    """The same seed gives the same order, and another seed gives another order."""
    first, again, other = (np.concatenate(list(answer.batches(np.arange(30), 90, 8, seed))) for seed in (0, 0, 1))
    assert np.array_equal(first, again), "the same seed gives two different orders"
    assert not np.array_equal(first, other), "two seeds give the same order"
