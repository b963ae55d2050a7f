"""WarmupCosine: its curve, its end, and the curve of a run that is resumed with another length."""

import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch.optim.lr_scheduler import LRScheduler

from plcourse.errors import UserError
from plcourse.training.schedules import WarmupCosine
from plcourse.vision.schedule import WarmupHoldDecay
from trainers import digits, short_trainer


def rates(schedule: LRScheduler, steps: int) -> list[float]:
    values = []
    for _ in range(steps):
        values.append(schedule.optimizer.param_groups[0]["lr"])
        schedule.optimizer.step()
        schedule.step()
    return values


def sgd(rate: float = 2.0) -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def resumed(
    schedule: WarmupCosine, stop: int, total: int, change: Callable[[dict[str, Any]], dict[str, Any]] = dict
) -> WarmupCosine:
    """A schedule of `total` steps that takes over the state of another after `stop` steps."""
    rates(schedule, stop)
    longer = WarmupCosine(sgd(), schedule.warmup, schedule.final, total)
    longer.optimizer.load_state_dict(schedule.optimizer.state_dict())
    longer.load_state_dict(change(schedule.state_dict()))
    return longer


class TestWarmupCosine:
    @pytest.mark.parametrize(("warmup", "final"), [(0.2, 0.0), (0.2, 0.1), (0.0, 0.0), (0.0, 0.5), (1.0, 0.0)])
    def test_the_rates_are_those_of_the_formula(self, warmup: float, final: float) -> None:
        total, peak = 50, 2.0
        w = round(warmup * total)
        values = rates(WarmupCosine(sgd(peak), warmup, final, total), total)
        for step in range(w):
            assert values[step] == pytest.approx(peak * (step + 1) / w)
        for t in range(w, total):
            cosine = (1 + math.cos(math.pi * (t - w) / (total - w))) / 2
            assert values[t] == pytest.approx(peak * (final + (1 - final) * cosine)), t

    def test_start_end_of_the_warm_up_middle_and_end(self) -> None:
        schedule = WarmupCosine(sgd(2.0), warmup=0.2, final=0.1, total_steps=50)
        values = rates(schedule, 60)
        assert values[0] == pytest.approx(0.2)
        assert values[9] == values[10] == pytest.approx(2.0)
        assert values[30] == pytest.approx(2.0 * (0.1 + 0.9 / 2))
        assert values[50] == pytest.approx(0.2)
        assert values[59] == pytest.approx(0.2)  # beyond the end it stays

    def test_every_group_has_its_own_peak(self) -> None:
        groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (1.0, 0.1)]
        schedule = WarmupCosine(torch.optim.SGD(groups), warmup=0.5, total_steps=4)
        assert [group["lr"] for group in schedule.optimizer.param_groups] == [0.5, 0.05]

    @pytest.mark.parametrize("stop", [0, 3, 5, 20, 49])
    def test_it_goes_on_from_its_state(self, stop: int) -> None:
        alone = rates(WarmupCosine(sgd(), 0.2, 0.1, 50), 50)
        first = WarmupCosine(sgd(), 0.2, 0.1, 50)
        before = rates(first, stop)
        second = WarmupCosine(sgd(), 0.2, 0.1, 50)
        second.optimizer.load_state_dict(first.optimizer.state_dict())
        second.load_state_dict(first.state_dict())
        assert before + rates(second, 50 - stop) == alone

    @pytest.mark.parametrize("stop", [50, 30])
    def test_a_longer_run_moves_over_to_its_own_curve_without_a_jump_or_a_step_at_0(self, stop: int) -> None:
        whole = rates(WarmupCosine(sgd(), 0.2, 0.0, 50), 51)
        longer = rates(WarmupCosine(sgd(), 0.2, 0.0, 100), 100)
        values = rates(resumed(WarmupCosine(sgd(), 0.2, 0.0, 50), stop, 100), 100 - stop)
        steps = round(0.2 * (100 - stop))
        for k in range(steps):
            fraction = (k + 1) / steps
            assert values[k] == pytest.approx(whole[stop] * (1 - fraction) + longer[stop + k] * fraction), k
        assert values[steps:] == longer[stop + steps :]
        assert min(values) > 0
        jumps = [abs(b - a) for a, b in zip([whole[stop], *values], values, strict=False)]
        assert max(jumps) < 2.0 / (0.2 * 50), "no steeper than a warm-up from 0 to the peak"

    def test_a_longer_run_that_is_interrupted_keeps_its_way(self) -> None:
        longer = rates(resumed(WarmupCosine(sgd(), 0.2, 0.0, 50), 50, 100), 50)
        first = resumed(WarmupCosine(sgd(), 0.2, 0.0, 50), 50, 100)
        before = rates(first, 4)
        assert before + rates(resumed(first, 0, 100), 46) == longer

    def test_a_curve_that_goes_on_where_it_was_needs_no_way_over(self) -> None:
        def held(hold: float) -> WarmupHoldDecay:
            return WarmupHoldDecay(sgd(), 0.1, hold, 0.0, 50)

        trunk = held(1.0)
        rates(trunk, 30)
        branch = held(0.6)
        branch.optimizer.load_state_dict(trunk.optimizer.state_dict())
        branch.load_state_dict(trunk.state_dict())
        assert rates(branch, 20) == rates(held(0.6), 50)[30:]

    def test_a_checkpoint_that_does_not_say_its_plan(self) -> None:
        def older(state: dict[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in state.items() if key not in ("plan", "_bridge")}

        known = rates(resumed(WarmupCosine(sgd(), 0.2, 0.0, 50), 50, 100), 50)
        assert rates(resumed(WarmupCosine(sgd(), 0.2, 0.0, 50), 50, 100, older), 50) == pytest.approx(known)

    @pytest.mark.parametrize("name", ["warmup", "final"])
    @pytest.mark.parametrize("fraction", [-0.1, 1.5, math.nan])
    def test_a_fraction_outside_0_to_1_is_refused(self, name: str, fraction: float) -> None:
        with pytest.raises(ValueError, match=rf"^{name} is .*between 0 and 1$"):
            WarmupCosine(sgd(), **cast(Any, {name: fraction}))

    def test_a_training_without_an_end_is_refused_in_one_line(self) -> None:
        trainer = short_trainer(max_epochs=-1, max_time="00:00:00:02")
        with pytest.raises((UserError, ValueError), match=r"(?i)max_epochs|max_steps"):
            trainer.fit(*digits())
