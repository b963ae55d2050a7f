"""A solution of the exercise gan/turns."""

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
    discriminator_optimizer.zero_grad()
    fake_BX = generator(latent_BZ).detach()
    real_B, fake_B = discriminator(real_BX), discriminator(fake_BX)
    loss = functional.softplus(-real_B).mean() + functional.softplus(fake_B).mean()
    loss.backward()
    discriminator_optimizer.step()

    generator_optimizer.zero_grad()
    score_B = discriminator(generator(latent_BZ))
    functional.softplus(-score_B).mean().backward()
    generator_optimizer.step()
