"""Which samples does each process score?

With 65 test samples, two processes report a different accuracy than one. The cause is in this file. Fix it, so that
any number of processes scores what one scores.
"""


def shares(n: int, rank: int, world_size: int) -> list[int]:
    """Returns the indices of the samples that a process scores.

    Args:
        n: number of test samples, 0 or more.
        rank: the rank of the process.
        world_size: number of processes.
    """
    each = -(-n // world_size)
    numbers = list(range(n))
    numbers += numbers[: each * world_size - n]
    return numbers[rank * each : (rank + 1) * each]
