"""Stochastic weight averaging (Izmailov et al. 2018), by hand.

`update` is called after every epoch, and in the end `average` should be the mean of all models that it was given. It is
not. Fix it, and keep in mind that a model has state besides its weights.
"""

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
        mean.copy_((mean + new) / 2)
