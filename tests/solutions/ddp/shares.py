"""A solution of the exercise ddp/shares."""


def shares(n: int, rank: int, world_size: int) -> list[int]:
    """The numbers of the samples that a process scores.

    Args:
        n: test samples, 0 or more.
        rank: this process.
        world_size: processes in all.
    """
    return list(range(n * rank // world_size, n * (rank + 1) // world_size))
