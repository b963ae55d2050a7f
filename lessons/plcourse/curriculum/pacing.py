"""How much of the data is admitted when: fixed beforehand, or by a plateau of a metric.

The fixed functions are the families that Wu, Dyer and Neyshabur 2021 (arXiv 2012.03107) compare, and a staircase
(Hacohen and Weinshall 2019, arXiv 1904.03626). With the start b, and p the time passed as a share of the ramp a:

    g = b + (1 - b) * f(min(p, 1))

    linear        f = p                 exponential   f = (e^(10 p) - 1) / (e^10 - 1)
    root          f = sqrt(p)           logarithmic   f = 1 + ln(p + e^-10) / 10
    quadratic     f = p^2               step          f = floor(p * stairs) / stairs
    one_step      f = 0 before p = 1
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal

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


def _check_share(name: str, share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"{name} is {share}; it is a share above 0, at most 1")


class Pacing(ABC):
    """The admitted share over time; it never shrinks.

    Attributes:
        needs_end: whether the length of the training must be known.
    """

    needs_end = True

    @abstractmethod
    def share(self, progress: float) -> float:
        """The share at `progress`, the part of all training batches that is behind, 0 to 1.

        Returns:
            Above 0, at most 1.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What a resumed run must not change, in plain types."""

    def observe(self, metrics: Mapping[str, Any]) -> None:
        """Looks at the metrics of a validation; a pace that is fixed beforehand does not.

        Raises:
            UserError: the one it watches is not among them.
        """
        return

    def state_dict(self) -> dict[str, Any]:
        """What it has learnt from the metrics, in plain types."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the state back."""
        return


class PacingFunction(Pacing):
    """A share that is a function of the time passed; see the equations above.

    Args:
        kind: the family.
        start: the share admitted first, above 0, at most 1.
        ramp: the part of the training after which everything is admitted, above 0, at most 1.
        stairs: rises of ``step``, 1 or more; the others ignore it.

    Raises:
        ValueError: a share outside its range, or no stairs.
    """

    def __init__(self, kind: Kind = "linear", start: float = 0.2, ramp: float = 0.5, stairs: int = 4) -> None:
        _check_share("start", start)
        _check_share("ramp", ramp)
        if stairs < 1:
            raise ValueError(f"stairs is {stairs}; it is 1 or more")
        self.kind, self.start, self.ramp, self.stairs = kind, start, ramp, stairs

    def share(self, progress: float) -> float:
        """The share at `progress`."""
        passed = progress / self.ramp
        if passed >= 1:
            return 1.0
        return self.start + (1 - self.start) * min(1.0, max(0.0, self._rise(passed)))

    def settings(self) -> dict[str, Any]:
        """The arguments."""
        return {"kind": self.kind, "start": self.start, "ramp": self.ramp, "stairs": self.stairs}

    def _rise(self, p: float) -> float:
        return math.floor(p * self.stairs) / self.stairs if self.kind == "step" else _RISES[self.kind](p)


class AdaptivePacing(Pacing):
    """Admits the next share when a metric has stopped getting better.

    After each validation at the end of an epoch the metric is compared with its best so far. When it has not improved
    for `patience` validations, the share grows by `increment` and the count starts anew. Whether everything gets
    admitted before the training ends depends on the metric; `train/share` tells.

    Args:
        monitor: the metric, such as ``val/accuracy``.
        mode: whether a larger (``max``) or a smaller (``min``) value is better.
        start: the share admitted first, above 0, at most 1.
        increment: what a plateau adds, above 0, at most 1.
        patience: validations without improvement that make a plateau, 1 or more.
        min_delta: a smaller improvement counts as none, 0 or more.

    Raises:
        ValueError: an argument outside its range.
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
        _check_share("start", start)
        _check_share("increment", increment)
        if patience < 1:
            raise ValueError(f"patience is {patience}; it is 1 or more")
        if min_delta < 0:
            raise ValueError(f"min_delta is {min_delta}; it is 0 or more")
        self.monitor, self.mode, self.start, self.increment = monitor, mode, start, increment
        self.patience, self.min_delta = patience, min_delta
        self._share, self._best, self._waited = start, -math.inf, 0

    def share(self, progress: float) -> float:
        """The share admitted now, whatever the progress."""
        return self._share

    def settings(self) -> dict[str, Any]:
        """The arguments."""
        names = ("monitor", "mode", "start", "increment", "patience", "min_delta")
        return {name: getattr(self, name) for name in names}

    def observe(self, metrics: Mapping[str, Any]) -> None:
        """Counts validations without improvement, and admits more at a plateau.

        Raises:
            UserError: the metric is not logged.
        """
        if self.monitor not in metrics:
            logged = sorted(metrics)
            raise UserError(
                f"adaptive pacing watches '{self.monitor}', which is not logged{nearest(self.monitor, logged)}; "
                f"logged are: {', '.join(logged) or 'none'}"
            )
        value = float(metrics[self.monitor]) * (1 if self.mode == "max" else -1)
        if value > self._best + self.min_delta:  # a value that is not a number is no improvement
            self._best, self._waited = value, 0
            return
        self._waited += 1
        if self._waited >= self.patience:
            self._share, self._waited = min(1.0, self._share + self.increment), 0

    def state_dict(self) -> dict[str, Any]:
        """Share, best value and count."""
        return {"share": self._share, "best": self._best, "waited": self._waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes them back."""
        self._share, self._best, self._waited = state_dict["share"], state_dict["best"], state_dict["waited"]
