"""Which of the hooks of a step do anything.

In every step Lightning calls some twenty hooks by name: of the module, of the data module, of each callback, of the
strategy. Most of them are the empty ones of their base classes, and to call those takes longer than the step of a small
model. The loops ask here, once for each pass over the data, what there is to call; where nothing can come between
forward, backward and step, they take these three directly. The operations on tensors are the same in the same order, so
the numbers are the same to the last bit.
"""

from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.plugins.precision import Precision
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import device

from plcourse.data.loader import Batch

_TRANSFER = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
_AROUND_THE_STEP = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")
_OF_THE_OPTIMIZER = ("optimizer_step", "optimizer_zero_grad", "backward", "configure_gradient_clipping")


def overrides(instance: Any, base: type, name: str) -> bool:
    """Whether an object has a method of its own in place of its base class's."""
    return name in vars(instance) or getattr(type(instance), name, None) is not getattr(base, name)


@dataclass(frozen=True)
class Shortcut:
    """What has to be called around one step, everything else being empty.

    Attributes:
        module: the model.
        stage: train, validation or test.
        before: callbacks with an ``on_<stage>_batch_start``.
        after: callbacks with an ``on_<stage>_batch_end``.
        on_cpu: whether batches are where they are needed already.
    """

    module: pl.LightningModule
    stage: Literal["train", "validation", "test"]
    before: tuple[Callback, ...]
    after: tuple[Callback, ...]
    on_cpu: bool

    @classmethod
    def of(cls, trainer: pl.Trainer, stage: Literal["train", "validation", "test"]) -> "Shortcut | None":
        """The shortcut of a stage; None where Lightning's own way has to be taken."""
        module, strategy = trainer.lightning_module, trainer.strategy
        plain = (
            type(strategy) is SingleDeviceStrategy
            and strategy.model is module
            and type(trainer.precision_plugin) is Precision
            and isinstance(trainer.profiler, PassThroughProfiler)  # pyright: ignore[reportAttributeAccessIssue]  (set late)
        )
        start, end = f"on_{stage}_batch_start", f"on_{stage}_batch_end"
        if not plain or any(overrides(module, pl.LightningModule, name) for name in (start, end, *_TRANSFER)):
            return None
        data = getattr(trainer, "datamodule", None)
        if data is not None and any(overrides(data, pl.LightningDataModule, name) for name in _TRANSFER):
            return None
        callbacks: list[Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]  (set late)
        before, after = (tuple(c for c in callbacks if overrides(c, Callback, name)) for name in (start, end))
        return cls(module, stage, before, after, strategy.root_device == device("cpu"))

    def to_device(self, trainer: pl.Trainer, batch: Any) -> Any:
        """The batch where the step needs it."""
        if self.on_cpu and type(batch) is Batch:
            return batch
        return trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    def start(self, *args: Any) -> None:
        """Calls ``on_<stage>_batch_start``."""
        self._call(self.before, f"on_{self.stage}_batch_start", args)

    def end(self, *args: Any) -> None:
        """Calls ``on_<stage>_batch_end``."""
        self._call(self.after, f"on_{self.stage}_batch_end", args)

    def _call(self, callbacks: tuple[Callback, ...], name: str, args: tuple[Any, ...]) -> None:
        if callbacks:
            enter(self.module, name)
            for callback in callbacks:
                getattr(callback, name)(self.module.trainer, self.module, *args)
            enter(self.module, None)


def enter(module: pl.LightningModule, hook: str | None) -> None:
    """Tells ``self.log`` from where it is called; not by way of the module's slow ``__setattr__``."""
    vars(module)["_current_fx_name"] = hook


def steps_directly(trainer: pl.Trainer) -> bool:
    """Whether nothing comes between forward, backward and the optimizer's step."""
    module = trainer.lightning_module
    callbacks: list[Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]  (set late)
    return (
        module.automatic_optimization
        and len(trainer.optimizers) == 1
        and not trainer.gradient_clip_val  # pyright: ignore[reportAttributeAccessIssue]  (set late)
        and not any(overrides(module, pl.LightningModule, name) for name in (*_AROUND_THE_STEP, *_OF_THE_OPTIMIZER))
        and not any(overrides(callback, Callback, name) for callback in callbacks for name in _AROUND_THE_STEP)
    )


def schedules_by_step(trainer: pl.Trainer) -> tuple[Any, ...] | None:
    """The schedules where all of them take a step with every step of the optimizer; None where any does not."""
    module = trainer.lightning_module
    if overrides(module, pl.LightningModule, "lr_scheduler_step"):
        return None
    configs = trainer.lr_scheduler_configs if module.automatic_optimization else []
    plain = all(c.interval == "step" and c.frequency == 1 and not c.reduce_on_plateau for c in configs)
    return tuple(c.scheduler for c in configs) if plain else None


def validates_after_last_batch(trainer: pl.Trainer) -> bool:
    """Whether validation, if there is any, is due after the last batch of an epoch and never before."""
    return (
        trainer.check_val_every_n_epoch is not None  # pyright: ignore[reportAttributeAccessIssue]  (set late)
        and trainer._val_check_time_interval is None  # pyright: ignore[reportAttributeAccessIssue]  (set late)
        and trainer.val_check_batch == trainer.num_training_batches
        and trainer.num_training_batches != float("inf")
    )
