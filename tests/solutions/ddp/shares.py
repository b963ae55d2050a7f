"""A solution of the exercise ddp/shares."""


def shares(n: int, rank: int, world_size: int) -> list[int]:
    """Returns the indices of the samples that a process scores.

    Args:
        n: number of test samples, 0 or more.
        rank: the rank of the process.
        world_size: number of processes.
    """
    return list(range(n * rank // world_size, n * (rank + 1) // world_size))
