"""The gradient penalty of WGAN-GP.

The critic ought to change by 1 per unit of input at every sample. With this penalty it does not get there. There are
two faults: one hides in what the penalty can teach the critic, one in what a slope is the slope of.
"""

import torch
from torch import Tensor, nn


def penalty(critic: nn.Module, sample_BX: Tensor) -> Tensor:
    """The mean over the samples of (norm of the critic's gradient at the sample - 1) squared."""
    sample_BX = sample_BX.detach().requires_grad_()
    (gradient_BX,) = torch.autograd.grad(critic(sample_BX).mean(), sample_BX)
    return (gradient_BX.norm(dim=1) - 1).square().mean().requires_grad_()
