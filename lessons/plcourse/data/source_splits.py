"""The training, validation and test part of labeled samples: what images, masks, tables and texts have in common."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any, Self

import numpy as np
from pytorch_lightning import Trainer

from plcourse.data.images import BatchDataset, Process, eval_loader, train_loader
from plcourse.data.loader import BatchLoader
from plcourse.data.protocols import Labeled
from plcourse.data.splits import check_classes, duplicate_groups, split, training_parts


class SourceSplits(ABC):
    """A source of labeled samples that is opened and split when it is first needed.

    What a model must know to read new inputs goes into the checkpoint as `state_dict`; after `load_state_dict`, new
    inputs can be read without the training data.

    Args:
        val_size: samples for validation (int), or their fraction (float); see `plcourse.data.splits.split`.
        test_size: the same for the test part.
        split_seed: another seed gives another split.
    """

    source: Any  # all samples, as `Labeled`: a cached property of each subclass
    fitted: Sequence[str] = ()  # cached attributes that were fitted to the training part

    def __init__(self, val_size: int | float, test_size: int | float, split_seed: int) -> None:
        self.val_size, self.test_size, self.split_seed = val_size, test_size, split_seed
        self._restored: dict[str, Any] | None = None

    def prepare(self) -> None:  # noqa: B027  most sources need nothing
        """Downloads what is missing; called by one process per machine."""

    def open(self) -> None:
        """Opens and splits the source now instead of at its first use, so that errors come early."""
        _ = self.parts

    @abstractmethod
    def dataset_of(self, part: str, augment: Any = None) -> BatchDataset:
        """The samples of a part, with the augmentation of training samples where it is given."""

    @cached_property
    def parts(self) -> dict[str, np.ndarray]:
        """Sorted int64 indices by ``train``, ``val`` and ``test``."""
        parts = self._split(self.source)
        if self._restored is None:
            check_classes(parts, self.source)
        return parts

    def _split(self, source: Labeled) -> dict[str, np.ndarray]:
        return split(source, self.val_size, self.test_size, self.split_seed)

    def train_loader(
        self, trainer: Trainer | None, batch_size: int, augment: Any = None, num_workers: int = 0
    ) -> BatchLoader:
        """Shuffled, augmented batches of the training part, `batch_size` samples per process."""
        return train_loader(self.dataset_of("train", augment), batch_size, Process.of(trainer), num_workers)

    def eval_loader(self, trainer: Trainer | None, part: str, batch_size: int, num_workers: int = 0) -> BatchLoader:
        """Each sample of `part` (``val``, ``test``, or ``train`` to score it) once, in order."""
        return eval_loader(self.dataset_of(part), batch_size, Process.of(trainer), num_workers, part)

    @property
    def split_terms(self) -> dict[str, Any]:
        """The sizes and the seed of the split, in plain types."""
        return {"val_size": self.val_size, "test_size": self.test_size, "split_seed": self.split_seed}

    @property
    def label_names(self) -> list[str]:
        """One name per class, as the checkpoint numbers them where one was loaded."""
        known = None if self._restored is None else self._restored.get("label_names")
        return self.source.label_names if known is None else known

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.label_names)

    @property
    def sizes(self) -> dict[str, int]:
        """Samples of each part: ``n_train``, ``n_val`` and ``n_test``."""
        return {f"n_{name}": len(indices) for name, indices in self.parts.items()}

    @cached_property
    def position(self) -> dict[str, int]:
        """The index of each sample in the source, by its id."""
        return {each: i for i, each in enumerate(self.source.ids)}

    def ids_of(self, part: str) -> list[str]:
        """The ids of a part's samples."""
        return [self.source.ids[i] for i in self.parts[part].tolist()]

    @property
    def _pool(self) -> np.ndarray:
        """The samples that may be split again: all but the test part."""
        return np.sort(np.concatenate([self.parts["train"], self.parts["val"]]))

    @property
    def ids(self) -> list[str]:
        """The ids of the samples for training or validation; see `Splittable`."""
        return [self.source.ids[i] for i in self._pool.tolist()]

    @property
    def labels(self) -> np.ndarray:
        """int64, the class of each of `ids`."""
        return self.source.labels[self._pool]

    @property
    def groups(self) -> np.ndarray | None:
        """int64, equal for duplicates among `ids`; None where all samples differ."""
        return duplicate_groups(self.source.hashes[self._pool])

    def with_split(self, train_ids: Sequence[str], val_ids: Sequence[str]) -> Self:
        """The same source and test part with another training and validation part, to which everything is refitted.

        Ids that are unknown or in the test part, and equal samples in both lists, are ValueErrors.
        """
        parts = training_parts(self.source, self._pool, train_ids, val_ids)
        resplit = copy.copy(self)
        resplit.parts = {**parts, "test": self.parts["test"]}
        resplit._restored = None
        for name in self.fitted:
            vars(resplit).pop(name, None)
        return resplit


def delegated(path: str) -> Any:
    """A read-only property that looks up `path` on the object, such as ``splits.ids``.

    It is typed Any, because a property made at run time would otherwise hide from type checkers what it returns.
    """
    return property(attrgetter(path))
