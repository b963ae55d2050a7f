"""What weight makes the mean over the processes the mean over the samples?

An epoch's last batch of 65 samples gives one process 33 and the other 32. Each computes the mean loss of its own
samples, times `weight`; DDP then takes the mean of the gradients over the processes. Fill the gap, so that the
gradient is that of the mean over all 65.
"""


def weight(n_rank: int, n_all: int, world_size: int) -> float:
    """The factor of a process's mean loss.

    Args:
        n_rank: samples of this process, 1 or more.
        n_all: samples of all processes together.
        world_size: processes in all.
    """
    return 1.0
