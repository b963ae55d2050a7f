"""One iteration of a non-saturating GAN, by hand.

The losses look reasonable, but the samples do not: part of the generator's update helps the discriminator. Find out
which part, and fix it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


def iteration(
    generator: nn.Module,
    discriminator: nn.Module,
    generator_optimizer: torch.optim.Optimizer,
    discriminator_optimizer: torch.optim.Optimizer,
    real_BX: Tensor,
    latent_BZ: Tensor,
) -> None:
    """Updates the discriminator, then the generator against the updated discriminator."""
    generator_optimizer.zero_grad()
    discriminator_optimizer.zero_grad()
    fake_BX = generator(latent_BZ)
    real_B, fake_B = discriminator(real_BX), discriminator(fake_BX)
    loss = functional.softplus(-real_B).mean() + functional.softplus(fake_B).mean()
    loss.backward()
    discriminator_optimizer.step()

    score_B = discriminator(generator(latent_BZ))
    functional.softplus(-score_B).mean().backward()
    generator_optimizer.step()
