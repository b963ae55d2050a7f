"""One iteration of a non-saturating GAN, by hand.

The losses look reasonable, the samples do not: part of what moves the generator helps the discriminator. Find out
which, and mend it.
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
    """The discriminator's turn, then the generator's, against the discriminator as it then is."""
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
