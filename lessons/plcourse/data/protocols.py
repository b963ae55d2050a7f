"""What the suite needs of data, as protocols that a user's own classes can satisfy too."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
import torch


class Labeled(Protocol):
    """N labeled samples before any split, in an order that never changes."""

    name: str  # the name they were opened by
    ids: list[str]  # N distinct names that stay with their sample, such as ``mnist5k/00012`` or ``cats/tom.png``
    labels: np.ndarray  # int64 [N], indices into `label_names`; -1 for a sample without a label
    label_names: list[str]  # one name per class
    parts: dict[str, np.ndarray] | None  # indices by ``train``, ``val``, ``test`` if the source comes with a split
    rejected: list[tuple[str, str]]  # (path, reason) of each sample that was left out

    @property
    def hashes(self) -> np.ndarray:
        """uint64 [N]: equal exactly for samples whose contents count as equal."""
        ...


class Source(Labeled, Protocol):
    """Images with labels."""

    shape: tuple[int, int, int]  # (channels, height, width) of every image

    def read(self, indices: np.ndarray) -> torch.Tensor:
        """The images at `indices` (int64 [B]) as uint8 [B, C, H, W]."""
        ...

    def read_raw(self, index: int) -> torch.Tensor:
        """One image before it was resized to `shape`: uint8 [C, H, W]."""
        ...


class BatchSampler(Protocol):
    """Chooses the samples of each batch of an epoch on one process."""

    n: int
    seed: int
    global_batch_size: int

    def __len__(self) -> int: ...

    def batches(self, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
        """The batches of `epoch` from number `start` on, each int64 [B]."""
        ...

    def rank_weight(self, batch_index: int) -> float | None:
        """The weight of this process's mean in the mean over processes; None if nothing is averaged."""
        ...


class Fetcher(Protocol):
    """Makes batches from sample numbers."""

    def fetch(self, indices: np.ndarray, epoch: int) -> dict[str, Any]:
        """The batch of the samples at `indices` (int64 [B]); a pure function of its arguments."""
        ...


@runtime_checkable
class Splittable(Protocol):
    """A data module whose training and validation parts can be chosen again, as k-fold and curricula need it.

    The test part is not among `ids`, and `with_split` keeps it.
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
        """int64 [N], equal for samples that a split must keep together; None if there are none."""
        ...

    def with_split(self, train_ids: Sequence[str], val_ids: Sequence[str]) -> Self:
        """A data module of the same kind that trains on `train_ids` and validates on `val_ids`."""
        ...
