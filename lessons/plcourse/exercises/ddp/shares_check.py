"""Checks `shares`."""

from types import ModuleType

_CASES = [(65, 2), (64, 2), (7, 4), (1, 3), (0, 2), (10, 1)]


def check_each_sample_once(answer: ModuleType) -> None:
    """All processes together score each sample once."""
    for n, world_size in _CASES:
        seen = [number for rank in range(world_size) for number in answer.shares(n, rank, world_size)]
        assert len(seen) == n, f"{n} samples on {world_size} processes: {len(seen)} scored"
        assert sorted(seen) == list(range(n)), f"{n} samples on {world_size} processes: some scored twice, some never"


def check_even(answer: ModuleType) -> None:
    """The numbers of samples of any two processes differ by at most one."""
    for n, world_size in _CASES:
        sizes = [len(answer.shares(n, rank, world_size)) for rank in range(world_size)]
        assert max(sizes) - min(sizes) <= 1, f"{n} samples on {world_size} processes: they score {sizes}"


def check_order(answer: ModuleType) -> None:
    """The samples of ranks 0, 1, ... in sequence are all samples in order."""
    for n, world_size in _CASES:
        seen = [number for rank in range(world_size) for number in answer.shares(n, rank, world_size)]
        assert seen == sorted(seen), f"{n} samples on {world_size} processes are out of order"
