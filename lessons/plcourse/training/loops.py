"""The four loop slots: the public base classes of every loop that a config can name.

Lightning 2 keeps its loops protected. This is the only file that imports them; it was checked against
pytorch-lightning 2.6.0 to 2.6.6 and refuses anything but 2.6. A loop of your own derives from `FitLoop`,
`ValidationLoop`, `TestLoop` or `PredictLoop`, takes the trainer as its first argument and anything else as
typed keyword arguments, and is named in a config::

    trainer:
      fit_loop:
        class_path: mine.ShoutingFitLoop     # plcourse fit -c this.yaml --trust mine
        init_args: {times: 2}

What a `FitLoop` drives::

    FitLoop.run
      on_run_start
      for each epoch:
        on_advance_start
        advance -> EpochLoop.run
                     for each batch: advance, on_advance_end -> ValidationLoop.run (when it is due)
        on_advance_end

and an evaluation loop: ``run`` = ``setup_data``, ``reset``, ``on_run_start``, one step per batch, ``on_run_end``.
What these bases add to Lightning's: evaluation is exact (no sample padded, a rank without samples still takes
part in every hook and collective), and training has *boundaries*, the moments between two batches and between
two epochs at which nothing is half done; checkpoints are written and signals obeyed only there.
"""

import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import MappingProxyType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loops.evaluation_loop import _EvaluationLoop
from pytorch_lightning.loops.fetchers import _DataFetcher, _DataLoaderIterDataFetcher
from pytorch_lightning.loops.fit_loop import _FitLoop
from pytorch_lightning.loops.loop import _Loop
from pytorch_lightning.loops.optimization.automatic import Closure, ClosureResult, _AutomaticOptimization
from pytorch_lightning.loops.optimization.manual import _ManualOptimization
from pytorch_lightning.loops.prediction_loop import _PredictionLoop
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop
from pytorch_lightning.loops.utilities import _no_grad_context
from pytorch_lightning.trainer.states import RunningStage, TrainerFn
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from plcourse.errors import UserError
from plcourse.processes.collectives import broadcast_buffers, total
from plcourse.training.fast_path import Shortcut, enter, schedules_by_step, steps_directly, validates_after_last_batch
from plcourse.training.logged_metrics import Results
from plcourse.training.random_state import RandomState
from plcourse.training.safe_points import SafePoint

CHECKED_VERSIONS = "2.6.0 to 2.6.6"

_version = pl.__version__  # pyright: ignore[reportPrivateImportUsage]  (where Lightning says its version)
if not _version.startswith("2.6."):
    raise UserError(
        f"pytorch-lightning {_version} is installed; the loop slots were checked against {CHECKED_VERSIONS}: "
        "pip install 'pytorch-lightning>=2.6,<2.7'"
    )


def _boundary(trainer: pl.Trainer) -> SafePoint:
    boundary = getattr(trainer, "boundary", None)
    assert isinstance(boundary, SafePoint), "the loops of this file run in a plcourse.Trainer"
    return boundary


def _number_of_callbacks(trainer: pl.Trainer) -> int:
    """Derived loops and callbacks may add some at any time."""
    return len(trainer.callbacks)  # pyright: ignore[reportAttributeAccessIssue]  (set late)


def _set_restarting(loop: _Loop, value: bool) -> None:
    # Past the property of the fit loop, which has an opinion of its own.
    setter = _Loop.restarting.fset
    assert setter is not None
    setter(loop, value)


class OneIteration(_ManualOptimization):
    """One batch of a module that steps its optimizers by hand: one step of the run, however many optimizers stepped.

    Lightning counts every ``optimizer.step()`` (issue 17958), so that ``max_steps`` and everything that asks for
    ``global_step`` would count a GAN's iterations twice. Here ``trainer.global_step`` is the number of batches trained
    on, which is also the x axis of the loggers.
    """

    def run(self, kwargs: OrderedDict[str, Any]) -> dict[str, Any]:
        """Trains on one batch and counts it once."""
        self.optim_step_progress.increment_ready()
        output = super().run(kwargs)
        self.optim_step_progress.increment_completed()
        return output

    def _on_before_step(self) -> None:
        self.trainer.profiler.start("optimizer_step")  # pyright: ignore[reportAttributeAccessIssue]  (set late)

    def _on_after_step(self) -> None:
        self.trainer.profiler.stop("optimizer_step")  # pyright: ignore[reportAttributeAccessIssue]  (set late)


class OneStep(_AutomaticOptimization):
    """One step of a module that leaves optimization to the Trainer: forward, backward, and the optimizer's step.

    Attributes:
        is_direct: whether no hook comes in between, so that the three follow each other without detours.
    """

    is_direct = False

    def run(self, optimizer: Optimizer, batch_idx: int, kwargs: OrderedDict[str, Any]) -> dict[str, Any]:
        """Trains on one batch."""
        if not self.is_direct or self.trainer.accumulate_grad_batches != 1:
            return super().run(optimizer, batch_idx, kwargs)
        closure = Closure(partial(self._forward, kwargs), Tensor.backward, partial(self._forget, optimizer))
        step = self.optim_progress.optimizer.step
        step.increment_ready()
        optimizer.step(closure)  # pyright: ignore  (a closure may return a tensor)
        step.increment_completed()
        result = closure.consume_result()
        return {} if result.loss is None else result.asdict()

    def _forward(self, kwargs: OrderedDict[str, Any]) -> ClosureResult:
        module = self.trainer.lightning_module
        enter(module, "training_step")
        output = module.training_step(*kwargs.values())
        enter(module, None)
        if isinstance(output, Tensor):
            return ClosureResult(output)  # Lightning's own way there divides by the number of accumulated batches, 1
        return ClosureResult.from_training_step_output(output)

    def _forget(self, optimizer: Optimizer) -> None:
        progress = self.optim_progress.optimizer.zero_grad
        progress.increment_ready()
        progress.increment_started()
        optimizer.zero_grad()
        progress.increment_completed()


class EpochLoop(_TrainingEpochLoop):
    """One training epoch: a boundary, then a batch, until the data are through.

    Attributes:
        seconds_waited: time spent waiting for the data loader's next batch, since the loop was made.
    """

    seconds_waited = 0.0
    _asked_at = 0.0
    _resumed_at_boundary = False
    _takes_batch_idx: bool | None = None

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__(trainer)
        self.automatic_optimization = OneStep(trainer)
        self.manual_optimization = OneIteration(trainer)
        self._results = self._logged = Results(training=True)
        self._shortcut: Shortcut | None = None
        self._schedules: tuple[Any, ...] | None = None
        self._validates_last = False
        self._callbacks_seen = -1

    def on_run_start(self, data_fetcher: _DataFetcher) -> None:
        """Starts the epoch, before whose first step it is looked up which hooks there are."""
        super().on_run_start(data_fetcher)
        self._callbacks_seen = -1

    def _look(self, data_fetcher: _DataFetcher) -> None:
        takes_iterator = isinstance(data_fetcher, _DataLoaderIterDataFetcher)
        self._shortcut = None if takes_iterator else Shortcut.of(self.trainer, "train")
        self.automatic_optimization.is_direct = self._shortcut is not None and steps_directly(self.trainer)
        self._logged.changed = True
        self._schedules = schedules_by_step(self.trainer)
        self._validates_last = validates_after_last_batch(self.trainer)
        self._callbacks_seen = _number_of_callbacks(self.trainer)

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Passes the boundary before the next batch, then trains on that batch."""
        if self.restarting and self._resumed_at_boundary:
            # Validation, where it was due, is part of the checkpoint: Lightning would spend an iteration on finding
            # that out and count a step that never was.
            _set_restarting(self, False)
        elif self.batch_progress.current.ready and not self.restarting and not self._should_accumulate():
            # gradients that are still being accumulated are in no checkpoint
            _boundary(self.trainer).between_batches()
        if self._callbacks_seen != _number_of_callbacks(self.trainer):
            self._look(data_fetcher)
        if self._shortcut is None or self.restarting:
            super().advance(data_fetcher)
        else:
            self._advance_by(self._shortcut, data_fetcher)

    def _advance_by(self, shortcut: Shortcut, data_fetcher: _DataFetcher) -> None:
        """What Lightning's `advance` does, less the hooks that are empty."""
        trainer, progress = self.trainer, self.batch_progress
        batch, _, _ = next(data_fetcher)
        batch_idx = self.batch_idx + 1
        progress.is_last_batch = data_fetcher.done
        batch = shortcut.to_device(trainer, batch)
        progress.increment_ready()
        connector = trainer._logger_connector
        connector.on_batch_start(batch)
        shortcut.start(batch, batch_idx)
        progress.increment_started()
        kwargs = self._build_kwargs(OrderedDict(), batch, batch_idx)
        if trainer.lightning_module.automatic_optimization:
            output = self.automatic_optimization.run(trainer.optimizers[0], batch_idx, kwargs)
        else:
            output = self.manual_optimization.run(kwargs)
        progress.increment_processed()
        self._step_schedules()
        shortcut.end(output, batch, batch_idx)
        if self._logged.changed:
            self._logged.changed = False
            connector.on_batch_end()
        else:
            self._logged.release_batch()
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
        nothing_due = self._shortcut is not None and self._schedules is not None and self._validates_last
        stops = self.trainer.should_stop or self.trainer.received_sigterm
        may_be_due = self.batch_progress.is_last_batch or self._skip_next_val or stops
        if nothing_due and not may_be_due:
            if not self._should_accumulate():
                self._batches_that_stepped += 1
            return
        super().on_advance_end(data_fetcher)
        self._logged.changed = True  # a validation may have logged under the same names

    def _on_before_fetch(self) -> None:
        super()._on_before_fetch()
        self._asked_at = time.perf_counter()

    def _on_after_fetch(self) -> None:
        self.seconds_waited += time.perf_counter() - self._asked_at
        super()._on_after_fetch()

    def prepare(self, batch: Any, batch_idx: int) -> Any:
        """What ``training_step`` gets as its batch; a loop of your own may add to it here."""
        return batch

    def _build_kwargs(self, kwargs: OrderedDict[str, Any], batch: Any, batch_idx: int) -> OrderedDict[str, Any]:
        # Lightning inspects the signature of training_step anew at every step.
        if self._takes_batch_idx is None:
            step = self.trainer.lightning_module.training_step
            self._takes_batch_idx = is_param_in_hook_signature(step, "batch_idx", min_args=2)
        kwargs["batch"] = self.prepare(batch, batch_idx)
        if self._takes_batch_idx:
            kwargs["batch_idx"] = batch_idx
        return kwargs

    def on_save_checkpoint(self) -> dict[str, Any]:
        """Lightning's state, and whether nothing was half done when it was taken."""
        return {**super().on_save_checkpoint(), "at_boundary": _boundary(self.trainer).passing}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Takes the state back."""
        self._resumed_at_boundary = state_dict.get("at_boundary", False)
        super().on_load_checkpoint(state_dict)

    def _broadcast_sigterm_tensor(self) -> None:
        """Left out: the ranks agree on signals at the boundary, Lightning's broadcast only hears rank 0."""


class FitLoop(_FitLoop):
    """The loop of `trainer.fit`; the base of every loop in the slot ``trainer.fit_loop``.

    Args:
        trainer: the trainer that runs it. Epoch and step limits are set by the trainer afterwards.
    """

    # what evaluates a run of this loop, by slot: where a slot is left empty, the trainer takes it from here
    evaluation_loops: Mapping[str, Callable[[pl.Trainer], Any]] = MappingProxyType({})
    _remembered: Any = None  # the loaders whose samples the trainer knows

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__(trainer)
        self.epoch_loop = EpochLoop(trainer)

    def whole_run(self, model: pl.LightningModule) -> AbstractContextManager[Any]:
        """What the trainer enters before it touches the model, the callbacks or the data, and leaves at the very end.

        Nothing here; a loop that has to see them untouched overrides it.
        """
        return nullcontext()

    def setup_data(self) -> None:
        """Requests the training data; a checkpoint's position in them is taken up even if they were requested before.

        Lightning forgets it when `estimated_stepping_batches` was asked for before the checkpoint was loaded.
        """
        super().setup_data()
        if self._combined_loader is not None and self._combined_loader is not self._remembered:
            self._remembered = self._combined_loader
            self.trainer.training_samples.remember(self._combined_loader.flattened)  # pyright: ignore[reportAttributeAccessIssue]  (our Trainer)
        if self.restarting and self._combined_loader_states_to_load and self._data_fetcher is not None:
            self._load_combined_loader_states()
            iter(self._data_fetcher)

    def reset(self) -> None:
        """Starts or resumes; a checkpoint written between two epochs starts the next one afresh."""
        progress = self.epoch_progress.current
        if self.restarting and progress.ready == progress.completed:
            # With max_steps Lightning takes any checkpoint for one in mid-epoch and would run an empty epoch.
            _set_restarting(self, False)
        super().reset()
        if progress.ready == progress.completed:
            # The next epoch gets an iterator of its own, made after the random states are restored: a shuffling
            # DataLoader draws from them when it is asked for one.
            self._resuming_from_checkpoint = False

    def on_advance_start(self) -> None:
        """Restores the random states of a checkpoint just before the first hook that could draw from them."""
        _boundary(self.trainer).before_epoch()
        super().on_advance_start()

    def on_advance_end(self) -> None:
        """Ends the epoch, then passes the boundary after it."""
        super().on_advance_end()
        _boundary(self.trainer).after_epoch()

    def on_save_checkpoint(self) -> dict[str, Any]:
        """Lightning's state, the random states of all ranks, and whether early stopping has asked to end the run."""
        states = {"random_states": RandomState.of_all_ranks(), "should_stop": self.trainer.should_stop}
        return {**super().on_save_checkpoint(), **states}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Takes the state back; a run that had stopped early stays stopped, unless its callbacks are others now."""
        trainer = self.trainer
        changed = getattr(trainer, "changed_callbacks", None)
        trainer.should_stop = state_dict.get("should_stop", False) and changed is None
        if "random_states" in state_dict:  # not in a checkpoint of Lightning's own loop
            states = state_dict["random_states"]
            _boundary(trainer).random_state.prepare(states, trainer.global_rank, trainer.world_size)
        super().on_load_checkpoint(state_dict)


def _without_gradients(cls: type) -> None:
    """A derived loop may replace `run`, and would lose the context that switches gradients off with it."""
    if "run" in cls.__dict__:
        cls.run = _no_grad_context(cls.run)  # pyright: ignore[reportAttributeAccessIssue]  (just looked up)


class _AllRanks:
    """A loop in which every rank takes part, however many of the batches it holds, even none.

    Lightning skips the loop on a rank without batches while the others wait in a collective. Here it is skipped only
    where no rank has a batch.
    """

    trainer: pl.Trainer
    _batches_anywhere = 0

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _without_gradients(cls)

    def whole_run(self, model: pl.LightningModule) -> AbstractContextManager[Any]:
        """As in `FitLoop`: entered before the trainer touches anything; nothing here."""
        return nullcontext()

    def setup_data(self) -> None:
        """Requests the data and counts the batches of all ranks."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Total length of .* across ranks is zero, but local rank")
            super().setup_data()  # pyright: ignore[reportAttributeAccessIssue]  (Lightning's loop comes after this one)
        batches = self.max_batches  # pyright: ignore[reportAttributeAccessIssue]  (the same)
        self._batches_anywhere = total(self.trainer, sum(batches))

    @property
    def skip(self) -> bool:
        """Whether there is nothing to do on any rank."""
        return self._batches_anywhere == 0


class _Evaluation(_AllRanks, _EvaluationLoop):
    """Evaluation in which the ranks may hold unequal numbers of batches.

    DistributedDataParallel broadcasts its buffers in every forward pass, which needs equally many batches on all
    ranks. Here they are broadcast once, at the start.

    Attributes:
        findings: what a loop of one's own has found beside the logged metrics; sections of ``eval/<split>.json``.
        lines: what it has to say on the screen.
    """

    findings: Mapping[str, Any] = MappingProxyType({})
    lines: Sequence[str] = ()
    _shortcut: Shortcut | None = None
    _callbacks_seen = -1  # when it was looked up which hooks there are; -1 before

    def __init__(self, trainer: pl.Trainer, trainer_fn: TrainerFn, stage: RunningStage, verbose: bool) -> None:
        super().__init__(trainer, trainer_fn, stage, verbose)
        self._results = self._logged = Results(training=False)

    def setup_data(self) -> None:
        """Requests the data, and refuses to score samples that the model was trained on."""
        super().setup_data()
        if self.trainer.state.fn != TrainerFn.FITTING and self._combined_loader is not None:
            self.trainer.check_evaluated(self._combined_loader.flattened)  # pyright: ignore[reportAttributeAccessIssue]  (our Trainer)

    def on_run_start(self) -> None:
        """Gives all ranks the buffers of rank 0 and lets the ranks run unequal numbers of batches."""
        broadcast_buffers(self.trainer)
        self._free_running(True)
        super().on_run_start()
        self._callbacks_seen = -1

    def _look(self) -> None:
        several = self.num_dataloaders > 1 or isinstance(self._data_fetcher, _DataLoaderIterDataFetcher)
        stage = "test" if self.trainer.testing else "validation"
        self._shortcut = None if several else Shortcut.of(self.trainer, stage)
        self._callbacks_seen = _number_of_callbacks(self.trainer)

    def _evaluation_step(self, batch: Any, batch_idx: int, dataloader_idx: int, dataloader_iter: Any) -> None:
        if self._callbacks_seen != _number_of_callbacks(self.trainer):
            self._look()
        if self._shortcut is None:
            super()._evaluation_step(batch, batch_idx, dataloader_idx, dataloader_iter)
        else:
            self._step_by(self._shortcut, batch, batch_idx)

    def _step_by(self, shortcut: Shortcut, batch: Any, batch_idx: int) -> None:
        """What Lightning's step does for one loader, less the hooks that are empty."""
        trainer, progress = self.trainer, self.batch_progress
        batch = shortcut.to_device(trainer, batch)
        kwargs = self._build_kwargs(batch, batch_idx, None)
        progress.increment_ready()
        connector = trainer._logger_connector
        connector.on_batch_start(batch, None)
        shortcut.start(*kwargs.values())
        progress.increment_started()
        step = f"{shortcut.stage}_step"
        step_args = self._build_step_args_from_hook_kwargs(kwargs, step)
        enter(shortcut.module, step)
        output = getattr(shortcut.module, step)(*step_args)
        enter(shortcut.module, None)
        progress.increment_processed()
        shortcut.end(output, *kwargs.values())
        logged = self._logged.any_valid
        if logged:
            connector.on_batch_end()
        else:
            self._logged.release_batch()
        progress.increment_completed()
        if not trainer.sanity_checking:
            self._has_run = True
            if logged:
                connector.update_eval_step_metrics(self._seen_batches_per_dataloader[0])
            self._seen_batches_per_dataloader[0] += 1

    def on_run_end(self) -> list[Any]:
        """Ends the evaluation; DistributedDataParallel keeps the ranks in step again."""
        self._free_running(False)
        with warnings.catch_warnings():
            if sum(self.max_batches) == 0:  # this rank has updated no metric, and gets its value from the others
                warnings.filterwarnings("ignore", message="The ``compute`` method of metric .* was called before")
            return super().on_run_end()

    def _free_running(self, free: bool) -> None:
        model = self.trainer.strategy.model
        if isinstance(model, DistributedDataParallel):
            model.require_forward_param_sync = not free


class ValidationLoop(_Evaluation):
    """The loop of `trainer.validate` and of the validation inside `trainer.fit`; slot ``trainer.validate_loop``.

    Args:
        trainer: the trainer that runs it; ``inference_mode`` and limits are taken over from it.
    """

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__(trainer, TrainerFn.VALIDATING, RunningStage.VALIDATING, verbose=False)


class TestLoop(_Evaluation):
    """The loop of `trainer.test`; the base of every loop in the slot ``trainer.test_loop``.

    Args:
        trainer: the trainer that runs it; ``inference_mode`` and limits are taken over from it.
    """

    __test__ = False  # not a test, whatever pytest makes of the name

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__(trainer, TrainerFn.TESTING, RunningStage.TESTING, verbose=False)


class PredictLoop(_AllRanks, _PredictionLoop):
    """The loop of `trainer.predict`; the base of every loop in the slot ``trainer.predict_loop``.

    Args:
        trainer: the trainer that runs it; ``inference_mode`` and limits are taken over from it.

    Attributes:
        writes_predictions: whether the loop writes them itself, in place of `PredictionWriter`.
        settings: what the predictions depend on beside weights and inputs, in the words of the config; set by the
            command line.
        facts: what the manifest of the predictions says of where they come from; set by the command line.
        quarantined: inputs that could not be read and have no row.
    """

    writes_predictions = False
    settings = ""
    facts: Mapping[str, Any] = MappingProxyType({})
    quarantined = 0

    def _get_batch_indices(self, dataloader: object) -> list[list[int]]:
        """None: batches carry their ids, and Lightning's list of every index grows without end."""
        return []


def adopt_fit_loop(
    trainer: pl.Trainer,
    loop: _FitLoop,
    min_epochs: int | None,
    max_epochs: int | None,
    min_steps: int | None,
    max_steps: int,
) -> None:
    """Puts ``loop`` into the trainer with the limits that Lightning gives to its own."""
    loop.min_epochs, loop.max_epochs = min_epochs, max_epochs
    loop.epoch_loop.min_steps, loop.epoch_loop.max_steps = min_steps, max_steps
    trainer.fit_loop = loop


def inside_fit(loop: ValidationLoop) -> ValidationLoop:
    """Turns a validation loop into the one that `fit` runs: quiet, and never in inference mode.

    Inference mode would leave inference tensors in metrics and buffers that training goes on to use.
    """
    loop._trainer_fn = TrainerFn.FITTING
    loop.inference_mode = False
    return loop
