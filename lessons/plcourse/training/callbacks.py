"""Callbacks that the suite adds to every run."""

import math
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.utils._pytree import tree_leaves

from plcourse.data.loader import sample_ids
from plcourse.data.randoms import keys_of
from plcourse.errors import gentler_training
from plcourse.processes.collectives import gather_objects


class FiniteLoss(Callback):
    """Ends the run when a loss is not finite, before a checkpoint contains its effect.

    On a CPU it checks every step. Reading a loss from an accelerator makes the host wait, so there the losses are
    combined on the device and checked every ``every_n_steps`` steps and at the end of each epoch.

    Args:
        every_n_steps: steps between two checks on an accelerator, 1 or more.
    """

    def __init__(self, every_n_steps: int = 20) -> None:
        self.every_n_steps = every_n_steps
        self._bad_step: Tensor | None = None

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Checks the loss of this step, or adds it to those to be checked."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if not isinstance(loss, Tensor):
            return
        if loss.device.type == "cpu":
            if not math.isfinite(value := loss.item()):
                self._fail(trainer, value, trainer.global_step, batch_idx, batch)
            return
        none_yet = torch.full((), -1, device=loss.device) if self._bad_step is None else self._bad_step
        bad = (none_yet < 0) & ~torch.isfinite(loss).all()
        self._bad_step = torch.where(bad, trainer.global_step, none_yet)
        if trainer.global_step % self.every_n_steps == 0 or trainer.is_last_batch:
            step = int(self._bad_step)
            if step >= 0:
                self._fail(trainer, float("nan"), step, batch_idx, batch)

    def _fail(self, trainer: pl.Trainer, value: float, step: int, batch_idx: int, batch: Any) -> None:
        ids = sample_ids(batch)
        samples = f", samples {', '.join(map(str, ids[:3]))}, ..." if ids is not None else ""
        trainer.safe_point.failure = (  # pyright: ignore[reportAttributeAccessIssue]  (our Trainer)
            f"the loss is {value} at step {step} (epoch {trainer.current_epoch}, batch {batch_idx}{samples}), but "
            f"the checkpoints are finite; {gentler_training(trainer.lightning_module)}"
        )


class Coverage(Callback):
    """Counts which samples an evaluation used, on all ranks together: ``65 of 65 seen, 0 twice``.

    Then `report` is ``{"expected": n, "seen": distinct samples, "twice": surplus uses}``, equal on all ranks; None if
    batches have no ids. Samples of different loaders are different, even if their ids are equal.
    """

    def __init__(self) -> None:
        self.report: dict[str, int] | None = None
        self._keys: list[np.ndarray] = []

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts counting."""
        self._keys = []

    def on_test_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Records the ids of one batch, except in the validation inside a fit."""
        batch = args[1] if len(args) > 1 else kwargs["batch"]
        if trainer.state.fn != "fit" and (ids := sample_ids(batch)) is not None:
            loader = args[3] if len(args) > 3 else kwargs.get("dataloader_idx", 0)
            self._keys.append(keys_of(ids) + np.uint64(loader))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Adds up the counts of the ranks, except in the validation inside a fit."""
        if trainer.state.fn == "fit":
            return
        own = np.concatenate(self._keys) if self._keys else np.empty(0, np.uint64)
        keys = np.concatenate(gather_objects(own))
        expected = samples_of(trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders)
        if keys.size == 0 or expected is None:
            self.report = None
            return
        seen = int(np.unique(keys).size)
        self.report = {"expected": expected, "seen": seen, "twice": int(keys.size) - seen}

    on_validation_epoch_start = on_test_epoch_start
    on_validation_batch_end = on_test_batch_end
    on_validation_epoch_end = on_test_epoch_end


def samples_of(loaders: object) -> int | None:
    """Returns the number of samples of one or several loaders, without limits; None if a loader has no length."""
    return _sum(map(_samples_of, tree_leaves(loaders)))


def samples_in(loaders: object, batches: Mapping[int, int]) -> int | None:
    """Returns the number of samples in this process's first batches; None if a loader has no length.

    Args:
        loaders: one or several loaders.
        batches: number of batches of each loader, by its position.
    """
    return _sum(_samples_in(loader, batches.get(place, 0)) for place, loader in enumerate(tree_leaves(loaders)))


def _samples_of(loader: object) -> int | None:
    planned = getattr(getattr(loader, "plan", None), "n", None)
    dataset: Any = getattr(loader, "dataset", None)
    if planned is not None:
        return int(planned)
    return len(dataset) if hasattr(dataset, "__len__") else None


def _sum(counts: Iterable[int | None]) -> int | None:
    found = list(counts)
    known = [count for count in found if count is not None]
    return sum(known) if len(known) == len(found) else None


def _samples_in(loader: object, batches: int) -> int | None:
    plan = getattr(loader, "plan", None)
    if plan is not None:
        return sum(len(each) for each in islice(plan.batches(0), batches))
    own = getattr(loader, "batch_sampler", None)
    batches_of = loader if own is None else own  # for predictions, Lightning replaces that of the loader
    sampler: Any = getattr(batches_of, "sampler", None)
    size = getattr(batches_of, "batch_size", None)
    if size is None or not hasattr(getattr(loader, "dataset", None), "__len__") or not hasattr(sampler, "__len__"):
        return None
    return min(batches * size, len(sampler))
