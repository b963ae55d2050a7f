"""Paces: functions rise from their start to 1, adaptive paces grow at plateaus, self-paced weights follow an age."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from plcourse.curriculum.pacing import AdaptivePacing, Kind, Pacing, PacingFunction
from plcourse.curriculum.self_paced import SelfPacing, Weigher
from plcourse.errors import UserError

KINDS: tuple[Kind, ...] = ("linear", "root", "quadratic", "exponential", "logarithmic", "step", "one_step")
GRID = np.linspace(0, 1, 401)


class TestPacingFunction:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(("start", "ramp"), [(0.2, 0.5), (0.05, 1.0), (1.0, 0.3)])
    def test_it_climbs_from_start_to_everything_and_never_falls(self, kind: Kind, start: float, ramp: float) -> None:
        pace = PacingFunction(kind, start, ramp)
        fractions = [pace.fraction(p) for p in GRID]
        assert fractions[0] == pytest.approx(start, abs=1e-9)
        assert all(a <= b for a, b in pairwise(fractions))
        assert {pace.fraction(p) for p in GRID[ramp <= GRID]} == {1.0}
        assert max(fractions) == 1.0

    def test_the_families_in_the_middle_of_the_ramp(self) -> None:
        """By hand: f(1/2) of the equations in the module's docstring."""
        expected = {
            "linear": 0.5,
            "root": math.sqrt(0.5),
            "quadratic": 0.25,
            "exponential": (math.e**5 - 1) / (math.e**10 - 1),
            "logarithmic": 1 + math.log(0.5 + math.e**-10) / 10,
            "step": 0.5,
            "one_step": 0.0,
        }
        for kind in KINDS:
            assert PacingFunction(kind, start=0.2, ramp=0.5).fraction(0.25) == pytest.approx(0.2 + 0.8 * expected[kind])

    def test_their_order_from_the_slowest_to_the_fastest(self) -> None:
        order: list[Kind] = ["one_step", "exponential", "quadratic", "linear", "root", "logarithmic"]
        for p in (0.1, 0.25, 0.4):
            fractions = [PacingFunction(kind, 0.1, 0.5).fraction(p) for kind in order]
            assert fractions == sorted(fractions)

    def test_stairs_are_equal_rises(self) -> None:
        pace = PacingFunction("step", start=0.2, ramp=1.0, stairs=4)
        assert {round(pace.fraction(p), 9) for p in GRID} == {0.2, 0.4, 0.6, 0.8, 1.0}


def test_a_pacing_of_a_user_may_still_define_share() -> None:
    class Halfway(Pacing):  # its `share` takes the place of the abstract `fraction`
        def share(self, progress: float) -> float:
            return 0.5 if progress < 0.5 else 1.0

        def settings(self) -> dict[str, float]:
            return {}

    halfway: Any = Halfway
    assert [halfway().fraction(p) for p in (0.2, 0.7)] == [0.5, 1.0]


class TestAdaptivePacing:
    def fractions(self, values: list[float], **arguments: object) -> list[float]:
        pace = AdaptivePacing("val/loss", mode="min", start=0.2, increment=0.3, **arguments)  # pyright: ignore[reportArgumentType]
        found = []
        for value in values:
            pace.observe({"val/loss": torch.tensor(value)})
            found.append(pace.fraction(0.0))
        return found

    def test_each_plateau_admits_one_increment(self) -> None:
        assert self.fractions([3, 2, 2, 1, 1, 1]) == pytest.approx([0.2, 0.2, 0.5, 0.5, 0.8, 1.0])

    def test_patience_counts_validations_without_improvement(self) -> None:
        assert self.fractions([3, 3, 2, 2, 2, 2, 2], patience=2) == pytest.approx([0.2] * 4 + [0.5, 0.5, 0.8])

    def test_a_small_improvement_is_none(self) -> None:
        assert self.fractions([3, 2.95, 2.5], min_delta=0.1) == pytest.approx([0.2, 0.5, 0.5])

    def test_a_value_that_is_no_number_is_no_improvement(self) -> None:
        assert self.fractions([3, math.nan, 2]) == pytest.approx([0.2, 0.5, 0.5])

    def test_a_restored_state_continues_exactly(self) -> None:
        values = [3.0, 3.0, 2.0, 2.0, 2.0]
        whole = AdaptivePacing("val/loss", "min", 0.1, 0.2, patience=2)
        for value in values[:3]:
            whole.observe({"val/loss": value})
        resumed = AdaptivePacing("val/loss", "min", 0.1, 0.2, patience=2)
        resumed.load_state_dict(whole.state_dict())
        for value in values[3:]:
            whole.observe({"val/loss": value})
            resumed.observe({"val/loss": value})
        assert resumed.state_dict() == whole.state_dict()
        assert whole.fraction(1.0) == pytest.approx(0.3)

    def test_a_missing_metric_is_refused(self) -> None:
        with pytest.raises(UserError, match="watches 'val/accuracy', which is not logged; logged metrics: none"):
            AdaptivePacing().observe({})


class TestSelfPacing:
    losses = torch.tensor([0.1, 0.5, 1.0, 3.0])

    def test_hard_weights_minimize_the_objective(self) -> None:
        """Over all 2^4 choices of v, none has a smaller sum of v_i * (loss_i - age)."""
        for age in (0.05, 0.3, 0.7, 2.0, 5.0):
            ours = Weigher(age, "hard")(self.losses)
            choices = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4)
            assert (ours * (self.losses - age)).sum() == (choices * (self.losses - age)).sum(dim=1).min()

    def test_linear_weights_fall_from_one_to_nothing(self) -> None:
        weights = Weigher(2.0, "linear")(self.losses)
        assert weights.tolist() == pytest.approx([0.95, 0.75, 0.5, 0.0])

    def test_the_age_grows_after_the_warm_up(self) -> None:
        pace = SelfPacing(age=0.5, growth=2.0, warmup_epochs=2)
        ages = [pace.weigher(epoch).age for epoch in range(5)]
        assert ages == pytest.approx([math.inf, math.inf, 0.5, 1.0, 2.0])
        assert Weigher(math.inf, "linear")(self.losses).tolist() == [1.0] * 4
        assert math.isfinite(pace.weigher(100_000).age)


@pytest.mark.parametrize(
    ("pacing", "arguments", "message"),
    [
        (PacingFunction, {"start": -0.2}, "start is -0.2; it must be above 0 and at most 1"),
        (PacingFunction, {"start": 0.0}, "start is 0.0; it must be above 0 and at most 1"),
        (PacingFunction, {"start": 1.5}, "start is 1.5; it must be above 0 and at most 1"),
        (PacingFunction, {"ramp": 0.0}, "ramp is 0.0; it must be above 0 and at most 1"),
        (PacingFunction, {"stairs": 0}, "stairs is 0; it must be 1 or more"),
        (AdaptivePacing, {"increment": 0.0}, "increment is 0.0; it must be above 0"),
        (AdaptivePacing, {"patience": 0}, "patience is 0; it must be 1 or more"),
        (AdaptivePacing, {"min_delta": -1.0}, "min_delta is -1.0; it must be 0 or more"),
        (SelfPacing, {"age": 0.0}, "age is 0.0; it is a loss in nats and must be above 0"),
        (SelfPacing, {"growth": 0.5}, "growth is 0.5; it must be 1 or more"),
        (SelfPacing, {"warmup_epochs": -1}, "warmup_epochs is -1; it must be 0 or more"),
    ],
)
def test_an_argument_out_of_range_is_refused(pacing: Any, arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pacing(**arguments)
