"""A solution of the exercise gan/penalty."""

import torch
from torch import Tensor, nn


def penalty(critic: nn.Module, sample_BX: Tensor) -> Tensor:
    """Returns the mean over the samples of (norm of the critic's gradient at the sample - 1) squared."""
    sample_BX = sample_BX.detach().requires_grad_()
    (gradient_BX,) = torch.autograd.grad(critic(sample_BX).sum(), sample_BX, create_graph=True)
    return (gradient_BX.norm(dim=1) - 1).square().mean()
