"""Stops a fold whose data module trains on held-out samples, whatever its batches look like."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.utils.data import Subset

from plcourse.data.provenance import row_hashes
from plcourse.errors import RunFailed


class LeakGuard(Callback):
    """Stops a fold whose data module trains on held-out samples.

    It checks the batches of the first epoch. Ids, wherever they are in a batch (see `ids_in`), and two
    `torch.utils.data.Subset` of one dataset reveal a leak before the sample is trained on. Batches without ids are
    compared by content in the first validation: a held-out sample that equals a training sample has leaked, unless the
    training part itself has duplicates. Augmented samples cannot be checked by content.
    """

    def __init__(self, held_out: Sequence[str], trained_on: Sequence[str] = ()) -> None:
        self.held_out = frozenset(held_out)
        self.known = self.held_out | frozenset(trained_on)
        self._contents: list[np.ndarray] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compares the subsets if both loaders read from one dataset."""
        train, val = _subset(trainer.train_dataloader), _subset(trainer.val_dataloaders)
        if train is not None and val is not None and train.dataset is val.dataset:
            for shared in sorted(set(train.indices) & set(val.indices)):
                self._refuse(trainer, f"sample {shared} of the dataset")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int
    ) -> None:
        """Checks a batch before it is trained on."""
        if trainer.current_epoch:
            return
        ids = ids_in(batch, self.known)
        if leaked := next((name for name in ids if name in self.held_out), None):
            self._refuse(trainer, f"sample {leaked}")
        if not ids:
            self._contents.append(contents_of(batch))

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: object, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Compares the contents of a batch without ids with the training samples."""
        if trainer.sanity_checking or trainer.current_epoch or not self._contents:
            return
        trained = np.concatenate(self._contents)
        leaked = np.flatnonzero(np.isin(contents_of(batch), trained))
        if len(leaked) and len(np.unique(trained)) == len(trained):
            self._refuse(trainer, f"sample {leaked[0]} of validation batch {batch_idx}")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Discards the contents after the comparison."""
        if not trainer.sanity_checking:
            self._contents = []

    def _refuse(self, trainer: pl.Trainer, leaked: str) -> None:
        raise RunFailed(f"{leaked} is held out, but {type(trainer.datamodule).__name__} trains on it")  # pyright: ignore[reportAttributeAccessIssue]  (set late)


def ids_in(batch: object, known: Collection[str]) -> list[str]:
    """The ids of a batch's samples, if they can be identified.

    They are in the field ``id`` of the batch or of a dictionary inside it, or else in a list of distinct strings which
    are all known ids.
    """
    if isinstance(batch, Mapping):
        if "id" in batch:
            return [str(name) for name in (batch["id"].tolist() if hasattr(batch["id"], "tolist") else batch["id"])]
        batch = list(batch.values())
    if not isinstance(batch, tuple | list) or not batch:
        return []
    if all(isinstance(each, str) for each in batch):
        # class names are strings too, but they repeat
        return list(batch) if len(set(batch)) == len(batch) and all(each in known for each in batch) else []
    return next((ids for each in batch if (ids := ids_in(each, known))), [])


def contents_of(batch: object) -> np.ndarray:
    """A hash of each sample's tensors, uint64 [B]; empty for a batch without tensors."""
    tensors = [each.detach().cpu() for each in _tensors(batch) if each.ndim]
    tensors = [each for each in tensors if len(each) == len(tensors[0])]
    if not tensors:
        return np.empty(0, np.uint64)
    rows = (each.double() if each.is_floating_point() else each for each in tensors)
    return row_hashes(np.column_stack([row_hashes(each.numpy()) for each in rows]))


def _tensors(batch: object) -> Iterator[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, Mapping | tuple | list):
        for each in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _tensors(each)


def _subset(loader: Any) -> Subset[Any] | None:
    """The subset that a torch loader reads; None for any other loader."""
    loader = loader[0] if isinstance(loader, list) and len(loader) == 1 else loader
    dataset = getattr(loader, "dataset", None)
    return dataset if isinstance(dataset, Subset) else None
