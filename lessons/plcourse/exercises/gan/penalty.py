"""The gradient penalty of WGAN-GP.

The critic should change by 1 per unit of input at every sample, but this penalty does not achieve it. There are two
bugs: one concerns what the critic can learn from the penalty, the other what the gradient is a gradient of.
"""

import torch
from torch import Tensor, nn


def penalty(critic: nn.Module, sample_BX: Tensor) -> Tensor:
    """Returns the mean over the samples of (norm of the critic's gradient at the sample - 1) squared."""
    sample_BX = sample_BX.detach().requires_grad_()
    (gradient_BX,) = torch.autograd.grad(critic(sample_BX).mean(), sample_BX)
    return (gradient_BX.norm(dim=1) - 1).square().mean().requires_grad_()
