"""Checks `shares`."""

from typing import Any

_CASES = [(65, 2), (64, 2), (7, 4), (1, 3), (0, 2), (10, 1)]


def check_each_sample_once(answer: Any) -> None:
    """All processes together score each sample once."""
    for n, world_size in _CASES:
        seen = [number for rank in range(world_size) for number in answer.shares(n, rank, world_size)]
        assert len(seen) == n, f"{n} samples on {world_size} processes: {len(seen)} scored"
        assert sorted(seen) == list(range(n)), f"{n} samples on {world_size} processes: some scored twice, some never"


def check_even(answer: Any) -> None:
    """No process has more than one sample more than another."""
    for n, world_size in _CASES:
        sizes = [len(answer.shares(n, rank, world_size)) for rank in range(world_size)]
        assert max(sizes) - min(sizes) <= 1, f"{n} samples on {world_size} processes: shares of {sizes}"


def check_order(answer: Any) -> None:
    """The shares of ranks 0, 1, ... in sequence are all samples in order."""
    for n, world_size in _CASES:
        seen = [number for rank in range(world_size) for number in answer.shares(n, rank, world_size)]
        assert seen == sorted(seen), f"{n} samples on {world_size} processes are out of order"
