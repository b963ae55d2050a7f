"""What the rest of the suite asks of data, as protocols that a user's own classes can satisfy too."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import torch


class Labelled(Protocol):
    """Labelled samples before any split, N of them, in an order that never changes: what a split looks at.

    Attributes:
        name: the name they were opened by.
        ids: N distinct names that stay with their sample, such as ``mnist5k/00012`` or ``cats/tom.png``.
        labels: int64 [N], indices into ``label_names``; -1 for a sample without a label.
        label_names: one name per class.
        parts: the source's own split, indices by ``train``, ``val``, ``test``; None where it has none.
        rejected: (path, reason) of each sample left out.
    """

    name: str
    ids: list[str]
    labels: np.ndarray
    label_names: list[str]
    parts: dict[str, np.ndarray] | None
    rejected: list[tuple[str, str]]

    @property
    def hashes(self) -> np.ndarray:
        """uint64 [N]: equal for two samples exactly when their content counts as equal."""
        ...


class Source(Labelled, Protocol):
    """Images with labels.

    Attributes:
        shape: (channels, height, width) of every image.
    """

    shape: tuple[int, int, int]

    def read(self, indices: np.ndarray) -> torch.Tensor:
        """The images at `indices` (int64 [B]) as uint8 [B, C, H, W]."""
        ...

    def read_raw(self, index: int) -> torch.Tensor:
        """One image before it was resized to `shape`: uint8 [C, H, W], of any height and width."""
        ...


class BatchSampler(Protocol):
    """Plans which samples each batch of an epoch holds on one process."""

    n: int
    seed: int
    global_batch_size: int

    def __len__(self) -> int: ...

    def batches(self, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
        """The batches of `epoch` from number `start` on, each int64 [B]."""
        ...

    def rank_weight(self, batch_index: int) -> float | None:
        """The weight of this process's mean in the mean over processes; None where nothing is averaged."""
        ...


class Fetcher(Protocol):
    """Turns sample numbers into a batch."""

    def fetch(self, indices: np.ndarray, epoch: int) -> dict[str, Any]:
        """The batch of the samples at `indices` (int64 [B]), a function of its arguments alone."""
        ...


@runtime_checkable
class Splittable(Protocol):
    """A data module whose training and validation parts can be chosen anew: what k-fold and curricula need.

    The test part is not among `ids` and is kept by `with_split`.
    """

    @property
    def ids(self) -> list[str]:
        """The N samples that may be used for training or validation."""
        ...

    @property
    def labels(self) -> np.ndarray:
        """int64 [N], the class of each."""
        ...

    @property
    def groups(self) -> np.ndarray | None:
        """int64 [N]: samples of one group must stay on one side of a split; None where each stands alone."""
        ...

    def with_split(self, train_ids: Sequence[str], val_ids: Sequence[str]) -> Self:
        """A new data module of the same kind that trains on `train_ids` and validates on `val_ids`."""
        ...
