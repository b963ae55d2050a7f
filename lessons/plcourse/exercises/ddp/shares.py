"""Which samples does each process score?

65 test samples on two processes give another accuracy than on one. The cause is in this file. Mend it, so that any
number of processes scores what one scores.
"""


def shares(n: int, rank: int, world_size: int) -> list[int]:
    """The numbers of the samples that a process scores.

    Args:
        n: test samples, 0 or more.
        rank: this process.
        world_size: processes in all.
    """
    each = -(-n // world_size)
    numbers = list(range(n))
    numbers += numbers[: each * world_size - n]
    return numbers[rank * each : (rank + 1) * each]
