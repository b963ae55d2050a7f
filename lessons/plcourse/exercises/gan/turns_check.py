"""Checks `turns`."""

import copy
from types import ModuleType

import torch
from torch import nn
from torch.nn import functional


def _played(answer: ModuleType) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module, torch.Tensor, torch.Tensor]:
    """Returns both networks before and after one iteration; with a learning rate of 1, steps equal gradients."""
    before = [nn.Sequential(nn.Linear(i, 4), nn.Tanh(), nn.Linear(4, o)).double() for i, o in ((2, 3), (3, 1))]
    after = copy.deepcopy(before)
    optimizers = [torch.optim.SGD(network.parameters(), lr=1.0) for network in after]
    real, latent = torch.randn(8, 3, dtype=torch.float64), torch.randn(8, 2, dtype=torch.float64)
    answer.iteration(*after, *optimizers, real, latent)
    return before[0], before[1], after[0], after[1], real, latent


def check_discriminator(answer: ModuleType) -> None:
    """The discriminator takes one step against the gradient of its own loss."""
    generator, discriminator, _, stepped, real, latent = _played(answer)
    real_B, fake_B = discriminator(real), discriminator(generator(latent))
    loss = functional.softplus(-real_B).mean() + functional.softplus(fake_B).mean()
    off = _off(discriminator, stepped, loss)
    assert off < 1e-9, f"its step is off by {off:.2g}"


def check_generator(answer: ModuleType) -> None:
    """The generator takes one step for its own loss alone, which uses the updated discriminator."""
    generator, _, stepped, discriminator, _, latent = _played(answer)
    off = _off(generator, stepped, functional.softplus(-discriminator(generator(latent))).mean())
    assert off < 1e-9, f"its step is off by {off:.2g}: it contains another gradient"


def _off(before: nn.Module, after: nn.Module, loss: torch.Tensor) -> float:
    gradients = torch.autograd.grad(loss, list(before.parameters()))
    pairs = zip(before.parameters(), after.parameters(), gradients, strict=True)
    return max(float((old - gradient - new).abs().max()) for old, new, gradient in pairs)
