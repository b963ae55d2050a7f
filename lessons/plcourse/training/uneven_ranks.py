"""Refuses ``self.log`` calls of an evaluation in which a rank would wait for one that has no batch left.

Evaluation is exact, so the ranks can have unequal numbers of batches. A value that is reduced over the ranks in each
step, or logged only on ranks that have a batch, would make them wait for each other until the collective times out.
"""

import re
from collections.abc import Sequence
from typing import Any

from torchmetrics import Metric

from plcourse.errors import UserError
from plcourse.training.fast_path import LoggedMetrics

_PER_BATCH = ("_step", "_batch_start", "_batch_end")


class EvaluationMetrics(LoggedMetrics):
    """The metrics that ``self.log`` collects in an evaluation.

    Attributes:
        batches: the number of batches of each rank, set before the first step.
    """

    batches: Sequence[float] = ()

    def log(self, fx: str, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Logs a value as Lightning does.

        Raises:
            UserError: the ranks would wait for each other.
        """
        if len(set(self.batches)) > 1 and fx.endswith(_PER_BATCH):
            waits = kwargs.get("sync_dist", False)
            in_each_step = waits and kwargs.get("on_step", False)
            if in_each_step or (0 in self.batches and (waits or isinstance(value, Metric))):
                raise self._refusal(fx, name, "on_step=True, sync_dist=True" if in_each_step else "sync_dist=True")
        super().log(fx, name, value, *args, **kwargs)

    def _refusal(self, fx: str, name: str, setting: str) -> UserError:
        most, fewest = (pick(self.batches) for pick in (max, min))
        ranks = [f"rank {self.batches.index(count)} has {count:g}" for count in (most, fewest)]
        hook = re.sub("_step$|_batch_(start|end)$", "_epoch_end", fx)
        hook = hook if hook.startswith("on_") else f"on_{hook}"
        return UserError(
            f"self.log({name!r}) in {fx} reduces over the ranks ({setting}), which have unequal numbers of batches "
            f"({ranks[0]}, {ranks[1]}), so that they would wait for each other: update a torchmetrics metric in {fx} "
            f"and log it in {hook}, which runs on every rank"
        )
