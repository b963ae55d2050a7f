"""Checks `weights`."""

from types import ModuleType

import torch


def check_gradient(answer: ModuleType) -> None:
    """The weighted gradients, averaged over the processes, equal the gradient of the mean over all samples."""
    for sizes in ([33, 32], [5, 5], [7, 2, 1], [4]):
        data = torch.randn(sum(sizes), 3, dtype=torch.float64)
        wanted = _gradient(data, 1.0)
        parts = [_gradient(part, answer.weight(len(part), len(data), len(sizes))) for part in torch.split(data, sizes)]
        off = float((sum(parts) / len(sizes) - wanted).abs().max())
        assert off < 1e-12, f"processes with {sizes} samples: the gradient is off by {off:.2g}"


def check_equal_sizes(answer: ModuleType) -> None:
    """If all processes have the same number of samples, the weight is 1."""
    for world_size in (1, 2, 8):
        found = answer.weight(16, 16 * world_size, world_size)
        assert found == 1, f"{world_size} processes with 16 samples each: the weight is {found}"


def _gradient(data: torch.Tensor, weight: float) -> torch.Tensor:
    parameter = torch.ones(3, dtype=torch.float64, requires_grad=True)
    ((data @ parameter).square().mean() * weight).backward()
    assert parameter.grad is not None
    return parameter.grad
