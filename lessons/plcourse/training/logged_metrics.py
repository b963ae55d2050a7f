"""What `self.log` has collected, without Lightning's second look at what has not changed.

At every call Lightning moves the metric to the device of the value by walking through all that the metric has, and
after every batch it makes the tables of logged numbers anew, though in most steps of a training nothing is logged. Both
take longer than a step of a small model. The numbers, and where they go, stay Lightning's.
"""

from typing import Any

import torch
from pytorch_lightning.trainer.connectors.logger_connector.result import _ResultCollection, _ResultMetric
from torch import Tensor


class _Settled(_ResultMetric):
    """A logged quantity that is moved only when it lies elsewhere."""

    def to(self, *args: Any, **kwargs: Any) -> "_Settled":
        device = args[0] if len(args) == 1 and not kwargs else None
        if self.is_tensor and isinstance(device, torch.device):
            states = [getattr(self, name) for name in self._defaults]
            if all(isinstance(state, Tensor) and state.device == device for state in states):
                return self
        super().to(*args, **kwargs)
        return self


class Results(_ResultCollection):
    """The quantities that one loop has logged.

    Attributes:
        changed: whether something was logged, or may have been overwritten by another loop, since this was last set
            to False.
    """

    def __init__(self, training: bool) -> None:
        super().__init__(training)
        self.changed = True

    def __setitem__(self, key: str, metric: _ResultMetric) -> None:
        """Takes a quantity in when it is logged for the first time."""
        super().__setitem__(key, _Settled(metric.meta, metric.is_tensor) if type(metric) is _ResultMetric else metric)

    def log(self, *args: Any, **kwargs: Any) -> None:
        """As Lightning does it."""
        self.changed = True
        super().log(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]  (hidden by torch's decorator)

    @property
    def any_valid(self) -> bool:
        """Whether something was logged since the loop began its pass."""
        return next(self.valid_items(), None) is not None

    def release_batch(self) -> None:
        """Lets go of the batch that sizes were taken from."""
        self.batch = self.batch_size = None
