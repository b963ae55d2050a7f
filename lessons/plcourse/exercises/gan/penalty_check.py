"""Checks `penalty`."""

from types import ModuleType

import torch
from torch import nn


def check_linear(answer: ModuleType) -> None:
    """For a linear critic the penalty is (norm of its weight - 1) squared, whatever the batch size."""
    critic = nn.Linear(5, 1).double()
    wanted = float((critic.weight.norm() - 1).square())
    for size in (1, 2, 50):
        found = float(answer.penalty(critic, torch.randn(size, 5, dtype=torch.float64)))
        assert abs(found - wanted) < 1e-9, f"a batch of {size}: {found:.4f} instead of {wanted:.4f}"


def check_it_teaches(answer: ModuleType) -> None:
    """The critic's weights get a gradient that reduces the penalty."""
    critic = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    sample = torch.randn(20, 5, dtype=torch.float64)
    before = answer.penalty(critic, sample)
    before.backward()
    gradients = [parameter.grad for parameter in critic.parameters()]
    assert any(gradient is not None and bool(gradient.any()) for gradient in gradients), "no weight gets a gradient"
    with torch.no_grad():
        for parameter in critic.parameters():
            if parameter.grad is not None:
                parameter -= 0.01 * parameter.grad
    after = answer.penalty(critic, sample)
    assert float(after) < float(before), f"a gradient step changes it from {float(before):.4f} to {float(after):.4f}"
