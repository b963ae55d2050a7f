"""How much of the data is admitted when: by a function of time, or at a plateau of a metric.

The functions are the families that Wu, Dyer and Neyshabur 2021 (arXiv 2012.03107) compare, and a staircase (Hacohen
and Weinshall 2019, arXiv 1904.03626). With the start b and the elapsed fraction p of the ramp:

    g = b + (1 - b) * f(min(p, 1))

    linear        f = p                 exponential   f = (e^(10 p) - 1) / (e^10 - 1)
    root          f = sqrt(p)           logarithmic   f = 1 + ln(p + e^-10) / 10
    quadratic     f = p^2               step          f = floor(p * stairs) / stairs
    one_step      f = 0 before p = 1
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor

from plcourse.errors import UserError, nearest

Kind = Literal["linear", "root", "quadratic", "exponential", "logarithmic", "step", "one_step"]

_RISES: dict[str, Callable[[float], float]] = {
    "linear": lambda p: p,
    "root": math.sqrt,
    "quadratic": lambda p: p * p,
    "exponential": lambda p: math.expm1(10 * p) / math.expm1(10),
    "logarithmic": lambda p: 1 + math.log(p + math.exp(-10)) / 10,
    "one_step": lambda p: 0.0,
}


class Pacing(ABC):
    """The admitted fraction over time; it never decreases.

    Attributes:
        needs_end: whether the length of the training must be known.
    """

    needs_end = True

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "share" in vars(cls):  # the name of `fraction` in 0.1
            cls.fraction = vars(cls)["share"]

    @abstractmethod
    def fraction(self, progress: float) -> float:
        """The admitted fraction, above 0 to 1, after the fraction `progress` of all training batches, 0 to 1."""

    def settings(self) -> Mapping[str, object]:
        """The settings that a resumed run must not change, in plain types; by default all arguments."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def observe(self, metrics: Mapping[str, Tensor | float]) -> None:
        """Takes note of the metrics of a validation; a UserError if a needed metric is missing."""
        return

    def state_dict(self) -> Mapping[str, float]:
        """The state that depends on observed metrics, in plain types."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, float]) -> None:
        """Restores the state."""
        return


class PacingFunction(Pacing):
    """An admitted fraction that is a function of time; see the equations above.

    Args:
        kind: the family.
        start: the fraction admitted first, above 0, at most 1.
        ramp: the fraction of the training after which everything is admitted, above 0, at most 1.
        stairs: number of rises of ``step``, 1 or more; other kinds ignore it.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, kind: Kind = "linear", start: float = 0.2, ramp: float = 0.5, stairs: int = 4) -> None:
        _check_fraction("start", start)
        _check_fraction("ramp", ramp)
        if stairs < 1:
            raise ValueError(f"stairs is {stairs}; it must be 1 or more")
        self.kind, self.start, self.ramp, self.stairs = kind, start, ramp, stairs

    def fraction(self, progress: float) -> float:
        """The admitted fraction at `progress`."""
        elapsed = progress / self.ramp
        if elapsed >= 1:
            return 1.0
        return self.start + (1 - self.start) * min(1.0, max(0.0, self._rise(elapsed)))

    def _rise(self, p: float) -> float:
        return math.floor(p * self.stairs) / self.stairs if self.kind == "step" else _RISES[self.kind](p)


class AdaptivePacing(Pacing):
    """Admits more samples whenever a metric has stopped improving.

    After each validation at the end of an epoch the metric is compared with its best value so far. When it has not
    improved for `patience` validations, the fraction grows by `increment` and the count restarts. Whether everything is
    admitted before the training ends depends on the metric; see `train/share`.

    Args:
        monitor: the metric, such as ``val/accuracy``.
        mode: whether a larger (``max``) or a smaller (``min``) value is better.
        start: the fraction admitted first, above 0, at most 1.
        increment: the fraction added at a plateau, above 0, at most 1.
        patience: number of validations without improvement that make a plateau, 1 or more.
        min_delta: smaller improvements count as none, 0 or more.

    Raises:
        ValueError: an argument is out of range.
    """

    needs_end = False

    def __init__(
        self,
        monitor: str = "val/accuracy",
        mode: Literal["min", "max"] = "max",
        start: float = 0.2,
        increment: float = 0.2,
        patience: int = 1,
        min_delta: float = 0.0,
    ) -> None:
        _check_fraction("start", start)
        _check_fraction("increment", increment)
        if patience < 1:
            raise ValueError(f"patience is {patience}; it must be 1 or more")
        if min_delta < 0:
            raise ValueError(f"min_delta is {min_delta}; it must be 0 or more")
        self.monitor, self.mode, self.start, self.increment = monitor, mode, start, increment
        self.patience, self.min_delta = patience, min_delta
        self._fraction, self._best, self._waited = start, -math.inf, 0

    def fraction(self, progress: float) -> float:
        """The fraction admitted now, independent of `progress`."""
        return self._fraction

    def observe(self, metrics: Mapping[str, Tensor | float]) -> None:
        """Counts validations without improvement and admits more at a plateau."""
        if self.monitor not in metrics:
            logged = sorted(metrics)
            raise UserError(
                f"adaptive pacing watches '{self.monitor}', which is not logged{nearest(self.monitor, logged)}; "
                f"logged metrics: {', '.join(logged) or 'none'}"
            )
        value = float(metrics[self.monitor]) * (1 if self.mode == "max" else -1)
        if value > self._best + self.min_delta:  # nan is no improvement
            self._best, self._waited = value, 0
            return
        self._waited += 1
        if self._waited >= self.patience:
            self._fraction, self._waited = min(1.0, self._fraction + self.increment), 0

    def state_dict(self) -> Mapping[str, float]:
        """Fraction, best value and count."""
        return {"share": self._fraction, "best": self._best, "waited": self._waited}

    def load_state_dict(self, state_dict: Mapping[str, float]) -> None:
        """Restores them."""
        self._fraction, self._best, self._waited = (state_dict[key] for key in ("share", "best", "waited"))


def _check_fraction(name: str, fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise ValueError(f"{name} is {fraction}; it must be above 0 and at most 1")
