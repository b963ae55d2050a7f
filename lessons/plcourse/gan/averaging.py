"""The exponential moving average of a generator's weights."""

import copy

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MovingAverage(nn.Module):
    """A generator whose weights are an exponential moving average of those in training (Yazici et al. 2019).

    The two networks of a GAN circle each other; the average of the generator's path lies closer to its center.

    Args:
        network: the generator; it is copied.
        decay: weight of the past in each update, 0 (no averaging) to less than 1, else a ValueError. It is smaller in
            early updates, so that the initial weights are soon forgotten.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay is {decay}; it must be at least 0 and less than 1")
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Moves the average toward the weights after iteration ``step``, counted from 0."""
        average = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
        average(list(self.network.parameters()), list(network.parameters()), step)
        for own, current in zip(self.network.buffers(), network.buffers(), strict=True):
            own.copy_(current)

    def forward(self, latent_BZ: Tensor) -> Tensor:
        """Maps latents [B, Z] to samples."""
        return self.network(latent_BZ)
