"""The fast path: Lightning's training and evaluation step without the hooks that do nothing.

In every step Lightning calls some twenty hooks by name. Most of them are empty, and calling those takes longer than the
step of a small model. At the start of each pass over the data, `FastPath.find` lists the hooks that do something, and
the steps below call only these. The tensor operations are the same in the same order, so all numbers are equal bit for
bit. A pass that needs anything else takes Lightning's step.

``PLCOURSE_FAST_PATH=0`` before a command makes every pass take Lightning's step, for debugging and comparison. It is no
argument of the Trainer because it changes no result and so does not belong in the config that a run records.
"""

import os
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loops.evaluation_loop import _EvaluationLoop
from pytorch_lightning.loops.fetchers import _DataFetcher, _DataLoaderIterDataFetcher
from pytorch_lightning.loops.optimization.automatic import Closure, ClosureResult, _AutomaticOptimization
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.plugins.precision import Precision
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.trainer.connectors.logger_connector.result import _ResultCollection, _ResultMetric
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from plcourse.data.loader import Batch
from plcourse.training.typed_trainer import TypedTrainer

Stage = Literal["train", "validation", "test"]

_TRANSFER = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")
_AROUND_THE_STEP = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")
_OF_THE_OPTIMIZER = ("optimizer_step", "optimizer_zero_grad", "backward", "configure_gradient_clipping")


def is_enabled() -> bool:
    """Whether the fast path may be taken: unless PLCOURSE_FAST_PATH is 0."""
    return os.environ.get("PLCOURSE_FAST_PATH") != "0"


def _overrides(instance: object, base: type, names: tuple[str, ...]) -> bool:
    """Whether an object replaces any of these methods of its base class."""
    own = type(instance)
    return any(name in vars(instance) or getattr(own, name, None) is not getattr(base, name) for name in names)


def _enter(module: pl.LightningModule, hook: str | None) -> None:
    """Tells ``self.log`` which hook calls it, without the module's slow ``__setattr__``."""
    vars(module)["_current_fx_name"] = hook


@dataclass(frozen=True)
class FastPath:
    """The hooks around one step that do something."""

    module: pl.LightningModule
    stage: Stage
    before: tuple[Callback, ...]  # callbacks with an ``on_<stage>_batch_start``
    after: tuple[Callback, ...]  # callbacks with an ``on_<stage>_batch_end``
    on_cpu: bool  # batches need not be moved

    @classmethod
    def find(cls, trainer: TypedTrainer, stage: Stage) -> "FastPath | None":
        """Returns the fast path of a stage; None where Lightning's step is needed."""
        module, strategy, data = trainer.lightning_module, trainer.strategy, trainer.datamodule
        start, end = f"on_{stage}_batch_start", f"on_{stage}_batch_end"
        if (
            not is_enabled()
            or type(strategy) is not SingleDeviceStrategy
            or strategy.model is not module
            or type(trainer.precision_plugin) is not Precision
            or not isinstance(trainer.profiler, PassThroughProfiler)
            or _overrides(module, pl.LightningModule, (start, end, *_TRANSFER))
            or (data is not None and _overrides(data, pl.LightningDataModule, _TRANSFER))
        ):
            return None
        before = tuple(callback for callback in trainer.callbacks if _overrides(callback, Callback, (start,)))
        after = tuple(callback for callback in trainer.callbacks if _overrides(callback, Callback, (end,)))
        return cls(module, stage, before, after, strategy.root_device == torch.device("cpu"))

    def to_device(self, trainer: pl.Trainer, batch: Any) -> Any:
        """Returns the batch on the device of the model."""
        if self.on_cpu and type(batch) is Batch:
            return batch
        return trainer.strategy.batch_to_device(batch, dataloader_idx=0)

    def start(self, *args: object) -> None:
        """Calls ``on_<stage>_batch_start``."""
        self._call(self.before, f"on_{self.stage}_batch_start", args)

    def end(self, *args: object) -> None:
        """Calls ``on_<stage>_batch_end``."""
        self._call(self.after, f"on_{self.stage}_batch_end", args)

    def _call(self, callbacks: tuple[Callback, ...], name: str, args: tuple[object, ...]) -> None:
        if callbacks:
            _enter(self.module, name)
            for callback in callbacks:
                getattr(callback, name)(self.module.trainer, self.module, *args)
            _enter(self.module, None)


def _steps_directly(trainer: TypedTrainer) -> bool:
    """Whether nothing comes between forward, backward and the optimizer's step."""
    module = trainer.lightning_module
    return (
        module.automatic_optimization
        and len(trainer.optimizers) == 1
        and not trainer.gradient_clip_val
        and not _overrides(module, pl.LightningModule, (*_AROUND_THE_STEP, *_OF_THE_OPTIMIZER))
        and not any(_overrides(callback, Callback, _AROUND_THE_STEP) for callback in trainer.callbacks)
    )


def _schedules_by_step(trainer: TypedTrainer) -> tuple[LRScheduler, ...] | None:
    """Returns the schedules if all of them step with every step of the optimizer, otherwise None."""
    module = trainer.lightning_module
    if _overrides(module, pl.LightningModule, ("lr_scheduler_step",)):
        return None
    configs = trainer.lr_scheduler_configs if module.automatic_optimization else []
    by_step = all(c.interval == "step" and c.frequency == 1 and not c.reduce_on_plateau for c in configs)
    return tuple(c.scheduler for c in configs) if by_step else None


def _validates_after_last_batch(trainer: TypedTrainer) -> bool:
    """Whether validation, if there is any, is due after the last batch of an epoch and never before."""
    return (
        trainer.check_val_every_n_epoch is not None
        and trainer._val_check_time_interval is None
        and trainer.val_check_batch == trainer.num_training_batches
        and trainer.num_training_batches != float("inf")
    )


class FastOptimization(_AutomaticOptimization):
    """One step of a module that leaves optimization to the Trainer: forward, backward, optimizer step."""

    is_direct = False  # whether these three follow each other without hooks between them

    def run(self, optimizer: Optimizer, batch_idx: int, kwargs: OrderedDict[str, Any]) -> dict[str, Any]:
        """Trains on one batch."""
        if not self.is_direct or self.trainer.accumulate_grad_batches != 1:
            return super().run(optimizer, batch_idx, kwargs)
        closure = Closure(partial(self._forward, kwargs), Tensor.backward, partial(self._zero_grad, optimizer))
        step = self.optim_progress.optimizer.step
        step.increment_ready()
        optimizer.step(closure)  # pyright: ignore  (a closure may return a tensor)
        step.increment_completed()
        result = closure.consume_result()
        return {} if result.loss is None else result.asdict()

    def _forward(self, kwargs: OrderedDict[str, Any]) -> ClosureResult:
        module = self.trainer.lightning_module
        _enter(module, "training_step")
        output = module.training_step(*kwargs.values())
        _enter(module, None)
        if isinstance(output, Tensor):
            return ClosureResult(output)  # Lightning would divide by the number of accumulated batches, 1
        return ClosureResult.from_training_step_output(output)

    def _zero_grad(self, optimizer: Optimizer) -> None:
        progress = self.optim_progress.optimizer.zero_grad
        progress.increment_ready()
        progress.increment_started()
        optimizer.zero_grad()
        progress.increment_completed()


class FastEpochLoop(_TrainingEpochLoop):
    """Lightning's training epoch, whose steps take the fast path where there is one."""

    trainer: TypedTrainer  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__(trainer)
        self.automatic_optimization = FastOptimization(trainer)
        self._results = self._logged = LoggedMetrics(training=True)
        self._path: FastPath | None = None
        self._schedules: tuple[LRScheduler, ...] | None = None
        self._validates_last = False
        self._callbacks_seen = -1  # how many there were when hooks were looked up; -1 before

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        """Starts the epoch; the next step looks up the hooks."""
        super().on_run_start(data_fetcher)
        self._callbacks_seen = -1

    def _look_up_hooks(self, data_fetcher: _DataFetcher) -> None:
        takes_iterator = isinstance(data_fetcher, _DataLoaderIterDataFetcher)
        self._path = None if takes_iterator else FastPath.find(self.trainer, "train")
        self.automatic_optimization.is_direct = self._path is not None and _steps_directly(self.trainer)
        self._logged.changed = True
        self._schedules = None if self._path is None else _schedules_by_step(self.trainer)
        self._validates_last = _validates_after_last_batch(self.trainer)
        self._callbacks_seen = len(self.trainer.callbacks)

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Trains on the next batch: what Lightning's `advance` does, without empty hooks."""
        trainer, progress = self.trainer, self.batch_progress
        if self._callbacks_seen != len(trainer.callbacks):  # derived loops and callbacks may add some at any time
            self._look_up_hooks(data_fetcher)
        path = self._path
        if path is None or self.restarting:
            super().advance(data_fetcher)
            return
        batch, _, _ = next(data_fetcher)
        batch_idx = self.batch_idx + 1
        progress.is_last_batch = data_fetcher.done
        batch = path.to_device(trainer, batch)
        progress.increment_ready()
        connector = trainer._logger_connector
        connector.on_batch_start(batch)
        path.start(batch, batch_idx)
        progress.increment_started()
        kwargs = self._build_kwargs(OrderedDict(), batch, batch_idx)
        if trainer.lightning_module.automatic_optimization:
            output = self.automatic_optimization.run(trainer.optimizers[0], batch_idx, kwargs)
        else:
            output = self.manual_optimization.run(kwargs)
        progress.increment_processed()
        self._step_schedules()
        path.end(output, batch, batch_idx)
        if self._logged.changed:
            self._logged.changed = False
            connector.on_batch_end()
        else:
            self._logged.batch = self._logged.batch_size = None
        progress.increment_completed()
        connector.update_train_step_metrics()

    def _step_schedules(self) -> None:
        if self._schedules is None:
            self.update_lr_schedulers("step", update_plateau_schedulers=False)
            if self._num_ready_batches_reached():
                self.update_lr_schedulers("epoch", update_plateau_schedulers=False)
        elif self._schedules and not self._should_accumulate():
            for schedule in self._schedules:
                self.scheduler_progress.increment_ready()
                schedule.step()
                self.scheduler_progress.increment_completed()

    def on_advance_end(self, data_fetcher: _DataFetcher) -> None:
        """Validates where it is due, then counts the step."""
        nothing_due = self._schedules is not None and self._validates_last
        stops = self.trainer.should_stop or self.trainer.received_sigterm
        may_be_due = self.batch_progress.is_last_batch or self._skip_next_val or stops
        if nothing_due and not may_be_due:
            if not self._should_accumulate():
                self._batches_that_stepped += 1
            return
        super().on_advance_end(data_fetcher)
        self._logged.changed = True  # a validation may have logged under the same names


class FastEvaluationLoop(_EvaluationLoop):
    """Lightning's evaluation loop, whose steps take the fast path where there is one."""

    trainer: TypedTrainer  # pyright: ignore[reportIncompatibleVariableOverride]
    _path: FastPath | None = None
    _callbacks_seen = -1  # how many there were when hooks were looked up; -1 before

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._results = self._logged = LoggedMetrics(training=False)

    def on_run_start(self) -> None:
        """Starts the evaluation; the next step looks up the hooks."""
        super().on_run_start()
        self._callbacks_seen = -1

    def _look_up_hooks(self) -> None:
        several = self.num_dataloaders > 1 or isinstance(self._data_fetcher, _DataLoaderIterDataFetcher)
        self._path = None if several else FastPath.find(self.trainer, "test" if self.trainer.testing else "validation")
        self._callbacks_seen = len(self.trainer.callbacks)

    def _evaluation_step(self, batch: Any, batch_idx: int, dataloader_idx: int, dataloader_iter: Any) -> None:
        """Evaluates one batch: what Lightning's step does for a single loader, without empty hooks."""
        trainer, progress = self.trainer, self.batch_progress
        if self._callbacks_seen != len(trainer.callbacks):
            self._look_up_hooks()
        path = self._path
        if path is None:
            super()._evaluation_step(batch, batch_idx, dataloader_idx, dataloader_iter)
            return
        batch = path.to_device(trainer, batch)
        kwargs = self._build_kwargs(batch, batch_idx, None)
        progress.increment_ready()
        connector = trainer._logger_connector
        connector.on_batch_start(batch, None)
        path.start(*kwargs.values())
        progress.increment_started()
        step = f"{path.stage}_step"
        step_args = self._build_step_args_from_hook_kwargs(kwargs, step)
        _enter(path.module, step)
        output = getattr(path.module, step)(*step_args)
        _enter(path.module, None)
        progress.increment_processed()
        path.end(output, *kwargs.values())
        logged = next(self._logged.valid_items(), None) is not None
        if logged:
            connector.on_batch_end()
        else:
            self._logged.batch = self._logged.batch_size = None
        progress.increment_completed()
        if not trainer.sanity_checking:
            self._has_run = True
            if logged:
                connector.update_eval_step_metrics(self._seen_batches_per_dataloader[0])
            self._seen_batches_per_dataloader[0] += 1


class LoggedMetrics(_ResultCollection):
    """The metrics that ``self.log`` collects in one loop; the numbers, and where they go, are Lightning's.

    After every batch Lightning rebuilds the tables of logged numbers, though most training steps log nothing, and at
    every call it walks through a metric to move it to the device of the value. Both take longer than a small step.
    """

    changed = True  # whether something was logged, or overwritten by another loop, since this was last set to False

    def __setitem__(self, key: str, metric: _ResultMetric) -> None:
        """Adds a metric when it is logged for the first time."""
        if type(metric) is _ResultMetric and is_enabled():
            metric = _LoggedMetric(metric.meta, metric.is_tensor)
        super().__setitem__(key, metric)

    def log(self, *args: Any, **kwargs: Any) -> None:
        """Logs a value as Lightning does."""
        self.changed = True
        super().log(*args, **kwargs)  # pyright: ignore[reportAttributeAccessIssue]  (hidden by torch's decorator)


class _LoggedMetric(_ResultMetric):
    """A logged metric that is moved only if it is on another device."""

    def to(self, *args: Any, **kwargs: Any) -> "_LoggedMetric":
        device = args[0] if len(args) == 1 and not kwargs else None
        if self.is_tensor and isinstance(device, torch.device):
            states = [getattr(self, name) for name in self._defaults]
            if all(isinstance(state, Tensor) and state.device == device for state in states):
                return self
        super().to(*args, **kwargs)
        return self
