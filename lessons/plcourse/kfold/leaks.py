"""A data module that trains on what it was told to hold out ends its fold, however its batches look."""

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
    """Ends a fold whose data module trains on samples that it was told to hold out.

    It looks at the first epoch's batches. Ids tell before a sample is trained on, wherever they are in a batch (see
    `ids_in`), and so do two `torch.utils.data.Subset` of one dataset. Of batches without ids the contents are compared
    in the first validation: a held-out sample that equals one trained on has leaked, unless the training part repeats
    samples itself, so that equal samples are nothing unusual. Augmented samples equal nothing and go unchecked.

    Args:
        held_out: the ids that must not be trained on.
        trained_on: the ids that may be.
    """

    def __init__(self, held_out: Sequence[str], trained_on: Sequence[str] = ()) -> None:
        self.held_out = frozenset(held_out)
        self.known = self.held_out | frozenset(trained_on)
        self._contents: list[np.ndarray] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compares the subsets that two loaders read of one dataset."""
        train, val = _subset(trainer.train_dataloader), _subset(trainer.val_dataloaders)
        if train is not None and val is not None and train.dataset is val.dataset:
            for shared in sorted(set(train.indices) & set(val.indices)):
                self._refuse(trainer, f"sample {shared} of the dataset")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Looks at one batch, before it is trained on."""
        if trainer.current_epoch:
            return
        ids = ids_in(batch, self.known)
        if leaked := next((name for name in ids if name in self.held_out), None):
            self._refuse(trainer, f"sample {leaked}")
        if not ids:
            self._contents.append(contents_of(batch))

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Compares the contents of a batch without ids with those that were trained on."""
        if trainer.sanity_checking or trainer.current_epoch or not self._contents:
            return
        trained = np.concatenate(self._contents)
        leaked = np.flatnonzero(np.isin(contents_of(batch), trained))
        if len(leaked) and len(np.unique(trained)) == len(trained):
            self._refuse(trainer, f"sample {leaked[0]} of validation batch {batch_idx}")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets the contents once they were compared."""
        if not trainer.sanity_checking:
            self._contents = []

    def _refuse(self, trainer: pl.Trainer, leaked: str) -> None:
        raise RunFailed(f"{leaked} is held out, but {type(trainer.datamodule).__name__} trains on it")  # pyright: ignore[reportAttributeAccessIssue]  (set late)


def ids_in(batch: Any, known: Collection[str]) -> list[str]:
    """The ids of a batch's samples, as far as they can be told from other fields.

    Args:
        batch: a dictionary with a field ``id``; or a tuple, a list or a dictionary with one inside, or with a list of
            distinct strings all of which are known ids.
        known: the ids that there are.
    """
    if isinstance(batch, Mapping):
        if "id" in batch:
            ids = batch["id"]
            return [str(name) for name in (ids.tolist() if hasattr(ids, "tolist") else ids)]
        batch = list(batch.values())
    if not isinstance(batch, tuple | list) or not batch:
        return []
    if all(isinstance(each, str) for each in batch):
        # names of classes are strings too, but they repeat
        return list(batch) if len(set(batch)) == len(batch) and all(each in known for each in batch) else []
    return next((ids for each in batch if (ids := ids_in(each, known))), [])


def contents_of(batch: Any) -> np.ndarray:
    """One hash per sample of all its tensors, uint64 [B]; empty where a batch has none."""
    tensors = [each.detach().cpu() for each in _tensors(batch) if each.ndim]
    tensors = [each for each in tensors if len(each) == len(tensors[0])]
    if not tensors:
        return np.empty(0, np.uint64)
    rows = (each.double() if each.is_floating_point() else each for each in tensors)
    return row_hashes(np.column_stack([row_hashes(each.numpy()) for each in rows]))


def _tensors(batch: Any) -> Iterator[torch.Tensor]:
    if isinstance(batch, torch.Tensor):
        yield batch
    elif isinstance(batch, Mapping | tuple | list):
        for each in batch.values() if isinstance(batch, Mapping) else batch:
            yield from _tensors(each)


def _subset(loader: Any) -> Subset[Any] | None:
    """What a loader of torch reads of a larger dataset, None for any other."""
    loader = loader[0] if isinstance(loader, list) and len(loader) == 1 else loader
    dataset = getattr(loader, "dataset", None)
    return dataset if isinstance(dataset, Subset) else None
