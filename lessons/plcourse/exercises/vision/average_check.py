"""Checks `average`."""

import copy
from types import ModuleType

import torch
from torch import nn


def _network() -> nn.Module:
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    network(torch.randn(16, 3, dtype=torch.float64))
    return network


def _averaged(answer: ModuleType, count: int) -> tuple[nn.Module, list[nn.Module]]:
    average, models = _network(), [_network() for _ in range(count)]
    for number, model in enumerate(models):
        answer.update(average, model, number)
    return average, models


def check_mean(answer: ModuleType) -> None:
    """After 1, 2 and 7 models the parameters are their mean."""
    for count in (1, 2, 7):
        average, models = _averaged(answer, count)
        for name, parameter in average.named_parameters():
            wanted = torch.stack([dict(model.named_parameters())[name] for model in models]).mean(dim=0)
            off = float((parameter - wanted).abs().max().detach())
            assert off < 1e-12, f"after {count} models {name} is off by {off:.2g}"


def check_buffers(answer: ModuleType) -> None:
    """The buffers equal those of the newest model."""
    average, models = _averaged(answer, 3)
    for name, buffer in average.named_buffers():
        assert torch.equal(buffer, dict(models[-1].named_buffers())[name]), f"{name} differs from the newest model"


def check_apart(answer: ModuleType) -> None:
    """The models are not changed and share no memory with the average."""
    average, model = _network(), _network()
    before = copy.deepcopy(model.state_dict())
    answer.update(average, model, 0)
    answer.update(average, _network(), 1)
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert not changed, f"{', '.join(changed)} of the model changed"
