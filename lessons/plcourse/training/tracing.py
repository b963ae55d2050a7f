"""Loops that print what Lightning calls, and which loop calls it.

Put them into the four slots of any config to see how a run is driven::

    plcourse fit -c kfold/traced

Each line is one call: the loop, the method, and, by its indent, the call that made it. Tracing changes nothing else: a
traced run gives the same weights as an untraced one.
"""

import functools
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

from plcourse.training.loops import FitLoop, PredictLoop, TestLoop, ValidationLoop

_METHODS = ("run", "setup_data", "reset", "on_run_start", "on_advance_start", "advance", "on_advance_end", "on_run_end")


class Trace:
    """The calls of the traced loops of one trainer, in order.

    Args:
        limit: lines to print at most; `calls` records the rest as well.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.calls: list[tuple[int, str]] = []
        self._depth = 0

    def watch(self, loop: object, name: str) -> None:
        """Wraps the methods of a loop, so that each call is recorded under ``name``."""
        for method in _METHODS:
            if hasattr(loop, method):
                setattr(loop, method, self._traced(getattr(loop, method), f"{name}.{method}"))

    def _traced(self, call: Callable[..., Any], label: str) -> Callable[..., Any]:
        @functools.wraps(call)
        def traced(*args: object, **kwargs: object) -> object:
            self.calls.append((self._depth, label))
            if len(self.calls) <= self.limit:
                print("  " * self._depth + label)  # noqa: T201  (printing is what this loop is for)
            self._depth += 1
            try:
                return call(*args, **kwargs)
            finally:
                self._depth -= 1

        return traced


class _Tracing:
    """Makes the loop that is the next base class print its calls.

    Args:
        trainer: the trainer that runs it; its loops share one `Trace`.
        limit: lines to print at most, 0 or more.
    """

    def __init__(self, trainer: pl.Trainer, limit: int = 60) -> None:
        super().__init__(trainer)  # pyright: ignore[reportCallIssue]  (the loop's)
        trace = getattr(trainer, "trace", None) or Trace(limit)
        trainer.trace = trace  # pyright: ignore[reportAttributeAccessIssue]  (ours, on a trainer of any class)
        stage = next(loop for loop in (FitLoop, ValidationLoop, TestLoop, PredictLoop) if isinstance(self, loop))
        trace.watch(self, stage.__name__)
        if isinstance(self, FitLoop):
            trace.watch(self.epoch_loop, "EpochLoop")


class TracingFitLoop(_Tracing, FitLoop):
    """A fit loop that prints its calls and those of its epoch loop."""


class TracingValidationLoop(_Tracing, ValidationLoop):
    """A validation loop that prints its calls; inside fit it shows which loop drives validation."""


class TracingTestLoop(_Tracing, TestLoop):
    """A test loop that prints its calls."""


class TracingPredictLoop(_Tracing, PredictLoop):
    """A predict loop that prints its calls."""
