"""A solution of the exercise ddp/weights."""


def weight(n_rank: int, n_all: int, world_size: int) -> float:
    """Returns the factor of a process's mean loss.

    Args:
        n_rank: samples of this process, 1 or more.
        n_all: samples of all processes together.
        world_size: number of processes.
    """
    return n_rank * world_size / n_all
