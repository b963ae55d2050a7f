"""A resumed run gets the learning rates and other optimizer settings of its config."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam, Optimizer
from torch.optim import lr_scheduler as torch_schedules

from plcourse.errors import UserError
from plcourse.training.optimizer_settings import Settings, apply_changes, check_classes, settings_in, settings_of
from plcourse.training.schedules import WarmupCosine

Build = Callable[[Optimizer], Any]
SCHEDULES: dict[str, Build] = {
    "constant": lambda optimizer: None,
    "WarmupCosine": lambda optimizer: WarmupCosine(optimizer, 0.2, 0.1, 20),
    "StepLR": lambda optimizer: torch_schedules.StepLR(optimizer, 3, 0.5),
    "ExponentialLR": lambda optimizer: torch_schedules.ExponentialLR(optimizer, 0.9),
    "LambdaLR": lambda optimizer: torch_schedules.LambdaLR(optimizer, lambda step: 0.95**step),
    "CosineAnnealingLR": lambda optimizer: torch_schedules.CosineAnnealingLR(optimizer, 20, 1e-3),
    "MultiStepLR": lambda optimizer: torch_schedules.MultiStepLR(optimizer, [4, 9]),
    "SequentialLR": lambda optimizer: torch_schedules.SequentialLR(
        optimizer,
        [torch_schedules.LinearLR(optimizer, 0.1, 1.0, 5), torch_schedules.ExponentialLR(optimizer, 0.9)],
        [5],
    ),
}


class Fit:
    """An optimizer and its schedule, with the settings that they began with."""

    def __init__(self, optimizer: Optimizer, build: Build = SCHEDULES["constant"]) -> None:
        self.optimizer, self.group = optimizer, optimizer.param_groups[0]
        self.schedule = build(optimizer)
        self.schedules = [] if self.schedule is None else [self.schedule]
        self.settings = settings_of([optimizer], self.schedules)

    def steps(self, number: int) -> list[float]:
        """Takes so many steps and returns their rates."""
        values = []
        for _ in range(number):
            values.append(float(self.group["lr"]))
            self.group["params"][0].grad = torch.ones(2)
            self.optimizer.step()
            for schedule in self.schedules:
                schedule.step()
        return values

    def resume(self, before: "Fit", known: Settings | None = None) -> "Fit":
        """Goes on from another fit, as a resumed run does."""
        self.optimizer.load_state_dict(before.optimizer.state_dict())
        for schedule in self.schedules:
            schedule.load_state_dict(before.schedule.state_dict())
        apply_changes(known or before.settings, self.settings, [self.optimizer], self.schedules)
        self.group = self.optimizer.param_groups[0]
        return self


def sgd(lr: float, **settings: Any) -> Optimizer:
    return SGD([torch.nn.Parameter(torch.ones(2))], lr=lr, **settings)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("done", [0, 7])
def test_the_rates_after_a_change_are_those_of_a_run_with_the_new_rate(name: str, done: int) -> None:
    expected = Fit(sgd(0.01), SCHEDULES[name]).steps(15)[done:]
    first = Fit(sgd(0.1), SCHEDULES[name])
    first.steps(done)
    assert Fit(sgd(0.01), SCHEDULES[name]).resume(first).steps(15 - done) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_without_a_change_nothing_is_touched(name: str) -> None:
    whole, first, second = (Fit(sgd(0.1, momentum=0.9), SCHEDULES[name]) for _ in range(3))
    values = first.steps(7)
    first.group["weight_decay"] = 0.25  # as a callback may do
    second.resume(first)
    assert second.group["weight_decay"] == 0.25
    assert values + second.steps(8) == whole.steps(15)


def test_other_settings_of_the_optimizer() -> None:
    first, second = Fit(sgd(0.1, momentum=0.9)), Fit(sgd(0.1, momentum=0.5, weight_decay=0.01))
    first.steps(3)
    buffer = next(iter(first.optimizer.state.values()))["momentum_buffer"].clone()
    group = second.resume(first).group
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.5, 0.01)
    assert torch.equal(next(iter(second.optimizer.state.values()))["momentum_buffer"], buffer), "the state is kept"


def test_a_schedule_with_other_settings_goes_on_along_its_own_curve() -> None:
    builds: list[Build] = [partial(torch_schedules.StepLR, step_size=3, gamma=gamma) for gamma in (0.1, 0.5)]
    first = Fit(sgd(0.1), builds[0])
    first.steps(7)
    resumed = Fit(sgd(0.1), builds[1]).resume(first)
    assert resumed.steps(5) == pytest.approx(Fit(sgd(0.1), builds[1]).steps(12)[7:])


def test_a_plateau_keeps_the_fraction_that_it_has_come_down_to() -> None:
    build = partial(torch_schedules.ReduceLROnPlateau, factor=0.5, patience=0)
    first, second = Fit(sgd(0.1), build), Fit(sgd(0.02), build)
    for _ in range(3):
        first.schedule.step(1.0)
    assert first.group["lr"] == pytest.approx(0.025)
    assert second.resume(first).group["lr"] == pytest.approx(0.005)


def test_two_groups_and_a_rate_in_a_tensor() -> None:
    def build(rates: tuple[float, float]) -> Fit:
        groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": torch.tensor(rate)} for rate in rates]
        return Fit(Adam(groups, capturable=False, foreach=False))

    groups = build((0.1, 0.05)).resume(build((0.1, 0.01))).optimizer.param_groups
    assert [float(group["lr"]) for group in groups] == pytest.approx([0.1, 0.05])
    assert all(isinstance(group["lr"], torch.Tensor) for group in groups)


def test_another_optimizer_is_refused() -> None:
    with pytest.raises(UserError, match="trained with the optimizer SGD, whose state Adam cannot"):
        check_classes(Fit(sgd(0.1)).settings, Fit(Adam([torch.nn.Parameter(torch.ones(1))])).settings)


def test_a_checkpoint_of_lightning_does_not_say_what_was_configured() -> None:
    build = partial(torch_schedules.StepLR, step_size=3)
    first, second = Fit(sgd(0.1), build), Fit(sgd(0.01, weight_decay=0.5), build)
    first.steps(7)
    states = {"optimizer_states": [first.optimizer.state_dict()], "lr_schedulers": [first.schedule.state_dict()]}
    second.resume(first, settings_in(states))
    assert second.group["lr"] == pytest.approx(0.01 * 0.1**2)
    assert second.group["weight_decay"] == 0.5
