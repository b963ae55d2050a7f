"""A solution of the exercise vision/average."""

import torch
from torch import nn


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, n_averaged: int) -> None:
    """Takes one more model into the average.

    Floating-point parameters are averaged. Everything else of the state (statistics and counters of batch norms) is
    that of the newest model, since means of statistics are statistics of nothing.

    Args:
        average: of the same kind; before the first update its weights mean nothing.
        model: the newest model; it stays as it is.
        n_averaged: how many models the average holds already, 0 or more.
    """
    for mean, new in zip(average.parameters(), model.parameters(), strict=True):
        mean.copy_(mean * (n_averaged / (n_averaged + 1)) + new / (n_averaged + 1))
    for kept, new in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(new)
