"""A resumed run is given the rates and other settings of the optimizer that its config asks for."""

from collections.abc import Callable
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


def optimizer(lr: float, **settings: Any) -> Optimizer:
    return SGD([torch.nn.Parameter(torch.ones(2))], lr=lr, **settings)


def steps(trained: Optimizer, schedule: Any, number: int) -> list[float]:
    """The rates of so many steps."""
    values = []
    for _ in range(number):
        values.append(float(trained.param_groups[0]["lr"]))
        trained.param_groups[0]["params"][0].grad = torch.ones(2)
        trained.step()
        if schedule is not None:
            schedule.step()
    return values


def settings(optimizer: Optimizer, schedule: Any = None) -> Settings:
    return settings_of([optimizer], [schedule] if schedule is not None else [])


def resumed(before: Optimizer, schedule: Any, known: Settings, now: Optimizer, own: Any) -> None:
    """Loads into `now` what `before` holds, as a resumed run does."""
    wanted = settings(now, own)
    now.load_state_dict(before.state_dict())
    if own is not None:
        own.load_state_dict(schedule.state_dict())
    apply_changes(known, wanted, [now], [own] if own is not None else [])


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("done", [0, 7])
def test_the_rates_after_a_change_are_those_of_a_run_with_the_new_rate(name: str, done: int) -> None:
    build = SCHEDULES[name]
    whole = optimizer(0.01)
    expected = steps(whole, build(whole), 15)[done:]
    first = optimizer(0.1)
    schedule = build(first)
    known = settings(first, schedule)
    steps(first, schedule, done)
    second = optimizer(0.01)
    own = build(second)
    resumed(first, schedule, known, second, own)
    assert steps(second, own, 15 - done) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_without_a_change_nothing_is_touched(name: str) -> None:
    build = SCHEDULES[name]
    whole = optimizer(0.1, momentum=0.9)
    expected = steps(whole, build(whole), 15)
    first = optimizer(0.1, momentum=0.9)
    schedule = build(first)
    known = settings(first, schedule)
    values = steps(first, schedule, 7)
    first.param_groups[0]["weight_decay"] = 0.25  # as a callback may do
    second = optimizer(0.1, momentum=0.9)
    own = build(second)
    resumed(first, schedule, known, second, own)
    assert second.param_groups[0]["weight_decay"] == 0.25
    assert values + steps(second, own, 8) == expected


def test_other_settings_of_the_optimizer() -> None:
    first, second = optimizer(0.1, momentum=0.9), optimizer(0.1, momentum=0.5, weight_decay=0.01)
    known = settings(first)
    steps(first, None, 3)
    buffer = next(iter(first.state.values()))["momentum_buffer"].clone()
    resumed(first, None, known, second, None)
    group = second.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.5, 0.01)
    assert torch.equal(next(iter(second.state.values()))["momentum_buffer"], buffer), "the state is taken over"


def test_a_schedule_with_other_settings_goes_on_along_its_own_curve() -> None:
    def build(at: Optimizer, gamma: float) -> Any:
        return torch_schedules.StepLR(at, 3, gamma)

    whole = optimizer(0.1)
    expected = steps(whole, build(whole, 0.5), 12)[7:]
    first = optimizer(0.1)
    schedule = build(first, 0.1)
    known = settings(first, schedule)
    steps(first, schedule, 7)
    second = optimizer(0.1)
    own = build(second, 0.5)
    resumed(first, schedule, known, second, own)
    assert steps(second, own, 5) == pytest.approx(expected)


def test_a_plateau_keeps_the_share_that_it_has_come_down_to() -> None:
    first, second = optimizer(0.1), optimizer(0.02)
    schedule, own = (torch_schedules.ReduceLROnPlateau(each, factor=0.5, patience=0) for each in (first, second))
    known = settings(first, schedule)
    for _ in range(3):
        schedule.step(1.0)
    assert first.param_groups[0]["lr"] == pytest.approx(0.025)
    resumed(first, schedule, known, second, own)
    assert second.param_groups[0]["lr"] == pytest.approx(0.005)


def test_two_groups_and_a_rate_in_a_tensor() -> None:
    def build(rates: tuple[float, float]) -> Optimizer:
        groups = [{"params": [torch.nn.Parameter(torch.ones(1))], "lr": torch.tensor(rate)} for rate in rates]
        return Adam(groups, capturable=False, foreach=False)

    first, second = build((0.1, 0.01)), build((0.1, 0.05))
    known = settings(first)
    resumed(first, None, known, second, None)
    assert [float(group["lr"]) for group in second.param_groups] == pytest.approx([0.1, 0.05])
    assert all(isinstance(group["lr"], torch.Tensor) for group in second.param_groups)


def test_another_optimizer_is_refused() -> None:
    known = settings(optimizer(0.1))
    with pytest.raises(UserError, match="trained with the optimizer SGD, whose state Adam cannot"):
        check_classes(known, settings(Adam([torch.nn.Parameter(torch.ones(1))])))


def test_a_checkpoint_of_lightning_does_not_say_what_was_configured() -> None:
    first = optimizer(0.1)
    schedule = torch_schedules.StepLR(first, 3)
    steps(first, schedule, 7)
    checkpoint = {"optimizer_states": [first.state_dict()], "lr_schedulers": [schedule.state_dict()]}
    second = optimizer(0.01, weight_decay=0.5)
    resumed(first, schedule, settings_in(checkpoint), second, torch_schedules.StepLR(second, 3))
    assert second.param_groups[0]["lr"] == pytest.approx(0.01 * 0.1**2)
    assert second.param_groups[0]["weight_decay"] == 0.5
