"""A solution of the exercise vision/average."""

import torch
from torch import nn


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, n_averaged: int) -> None:
    """Adds one model to the average.

    Parameters are averaged. All other state (the statistics and counters of batch norms) is copied from the newest
    model, since averaged statistics describe no model.

    Args:
        average: a model of the same architecture; its values before the first update do not matter.
        model: the newest model; it is not changed.
        n_averaged: how many models are in the average already, 0 or more.
    """
    for mean, new in zip(average.parameters(), model.parameters(), strict=True):
        mean.copy_(mean * (n_averaged / (n_averaged + 1)) + new / (n_averaged + 1))
    for kept, new in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(new)
