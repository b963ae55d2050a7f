"""Lightning's Trainer with four loop slots, exact evaluation and runs that resume bit-exactly."""

import copy
import inspect
import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins import CheckpointIO
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from pytorch_lightning.plugins.precision import DoublePrecision, HalfPrecision
from pytorch_lightning.profilers import PassThroughProfiler
from pytorch_lightning.strategies import Strategy
from pytorch_lightning.trainer.connectors.checkpoint_connector import _CheckpointConnector
from pytorch_lightning.trainer.states import TrainerFn

from plcourse.data.loader import Batch
from plcourse.errors import UserError
from plcourse.training.callbacks import FiniteLoss
from plcourse.training.checkpoint import AtomicCheckpointIO, RunCheckpoint, run_checkpoint
from plcourse.training.leak_check import TrainingSamples
from plcourse.training.loops import FitLoop, PredictLoop, TestLoop, ValidationLoop, adopt_fit_loop, inside_fit
from plcourse.training.optimizer_settings import apply_changes, check_classes, configured, configured_before
from plcourse.training.safe_points import SafePoint
from plcourse.training.signals import SignalHandler
from plcourse.training.variant import AS_TRAINED, Variant


class NoProfiler(PassThroughProfiler):
    """Profiles nothing, like Lightning's default, and without making a context manager for each of 50 hooks a step."""

    _nothing: AbstractContextManager[None] = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # pyright: ignore[reportIncompatibleMethodOverride]  (a generator there)
        """The same empty context every time."""
        return self._nothing


class NamedCheckpoints(_CheckpointConnector):
    """Finds ``best`` and ``last`` among the files of `RunCheckpoint`; Lightning looks for ``last`` only in its own.

    It also keeps in each checkpoint what the optimizers were configured with, and gives a run that resumes with other
    settings these settings: see `plcourse.training.optimizer_settings`. And it can read the checkpoint before the data
    are set up.
    """

    configured: dict[str, Any] | None = None
    _coming: tuple[Any, bool | None] = (None, None)

    def note_configured(self) -> None:
        """Notes the settings of the optimizers as they are now; to be called before anything changes them."""
        self.configured = configured(self.trainer.optimizers, self._schedules)

    def dump_checkpoint(self, weights_only: bool | None = None) -> dict[str, Any]:
        """Lightning's checkpoint, what the optimizers were configured with, and what the weights were trained on."""
        own = {} if weights_only or self.configured is None else {"configured": self.configured}
        trained_on = self.trainer.training_samples.states()  # pyright: ignore[reportAttributeAccessIssue]  (our Trainer)
        return {**trained_on, **super().dump_checkpoint(weights_only), **own}

    def restore_callbacks(self) -> None:
        """Restores their states, but not the settings that have changed, which some take for a part of their state."""
        changed = self.trainer.changed_callbacks or []  # pyright: ignore[reportAttributeAccessIssue]  (our Trainer)
        kept = [(callback, name, getattr(callback, name)) for callback, name in changed if hasattr(callback, name)]
        super().restore_callbacks()
        for callback, name, value in kept:
            setattr(callback, name, value)

    def restore_loops(self) -> None:
        """Restores them.

        Raises:
            UserError: the checkpoint has been trained for longer than is asked for.
        """
        try:
            super().restore_loops()
        except MisconfigurationException as error:
            trainer = self.trainer
            raise UserError(
                f"trainer.max_epochs is {trainer.max_epochs}, and {trainer.current_epoch} epochs are trained already: "
                "ask for more"
            ) from error

    def restore_optimizers_and_schedulers(self) -> None:
        """Restores them, then puts in what is configured otherwise than it was."""
        if not self._loaded_checkpoint or self.configured is None:
            super().restore_optimizers_and_schedulers()
            return
        before = configured_before(self._loaded_checkpoint)
        check_classes(before, self.configured)
        super().restore_optimizers_and_schedulers()
        apply_changes(before, self.configured, self.trainer.optimizers, self._schedules)

    @property
    def _schedules(self) -> list[Any]:
        return [config.scheduler for config in self.trainer.lr_scheduler_configs]

    def announce(self, ckpt_path: Any, weights_only: bool | None) -> None:
        """Notes which checkpoint the run that begins will restore."""
        self._coming, self._loaded_checkpoint = (ckpt_path, weights_only), {}

    def read_announced(self) -> dict[str, Any]:
        """The checkpoint that was announced, empty for none; a collective of all ranks."""
        if not self._loaded_checkpoint and not self.trainer.strategy.restore_checkpoint_after_setup:
            self.resume_start(*self._coming)
        return self._loaded_checkpoint

    def resume_start(self, checkpoint_path: Any = None, weights_only: bool | None = None) -> None:
        """Reads the checkpoint, unless it was read before the data were set up."""
        if self._loaded_checkpoint and checkpoint_path == self._ckpt_path:
            return
        super().resume_start(checkpoint_path, weights_only)
        if self._loaded_checkpoint:
            samples = self.trainer.training_samples  # pyright: ignore[reportAttributeAccessIssue]  (our Trainer)
            samples.take_over(self._loaded_checkpoint, checkpoint_path)

    @property
    def announced(self) -> Any:
        """The path of the checkpoint that this run restores, None for none."""
        return self._coming[0]

    def _parse_ckpt_path(self, state_fn: TrainerFn, ckpt_path: Any, *args: Any, **kwargs: Any) -> Any:
        keeper = self.trainer.run_checkpoint  # pyright: ignore[reportAttributeAccessIssue]  (our Trainer)
        if ckpt_path in ("best", "last") and keeper is not None:
            found = keeper.best_model_path if ckpt_path == "best" else keeper.last_model_path
            if found:
                return found
            raise UserError(f"there is no {ckpt_path} checkpoint in {keeper.dirpath or 'a folder: nothing was fitted'}")
        return super()._parse_ckpt_path(state_fn, ckpt_path, *args, **kwargs)


class Trainer(pl.Trainer):
    """Lightning's Trainer, whose loops are arguments.

    Each slot takes a callable that builds the loop from the trainer; in a config that is a ``class_path`` with
    ``init_args``. A slot that is left empty gets the loop that the fit loop brings along, or else the plain one. Epoch
    and step limits, ``limit_*_batches`` and ``inference_mode`` hold for every loop.

    Args:
        fit_loop: builds the loop of `fit`; `plcourse.training.loops.FitLoop` or a class derived from it.
        validate_loop: builds the loop of `validate`, and a second one for the validation inside `fit`.
        test_loop: builds the loop of `test`.
        predict_loop: builds the loop of `predict`.
        allow_training_samples: score samples that the model was trained on, too; otherwise an evaluation that has
            some is refused, see `plcourse.training.leak_check`.
        **kwargs: everything that `pytorch_lightning.Trainer` takes.

    Attributes:
        arguments: what it was built with, so that a loop can build others like it; strategy and plugins, which a
            trainer makes its own, are copies that none has used.
        changed_callbacks: arguments of callbacks that a resumed run changes, as pairs of callback and name; None where
            it changes nothing about its callbacks.
        cache_dir: where what many runs can share is kept; below the root of the runs, or below `default_root_dir`.
        variant: how an evaluation differs from the run as it was trained; set by the command line.

    Raises:
        UserError: a slot holds something that is not a loop of that stage.
    """

    # set by Lightning's connectors, where type checkers do not see them
    callbacks: list[pl.Callback]
    fast_dev_run: bool | int
    log_every_n_steps: int
    _checkpoint_connector: NamedCheckpoints
    changed_callbacks: list[tuple[pl.Callback, str]] | None = None

    def __init__(
        self,
        fit_loop: Callable[[pl.Trainer], FitLoop] | None = None,
        validate_loop: Callable[[pl.Trainer], ValidationLoop] | None = None,
        test_loop: Callable[[pl.Trainer], TestLoop] | None = None,
        predict_loop: Callable[[pl.Trainer], PredictLoop] | None = None,
        allow_training_samples: bool = False,
        **kwargs: Any,
    ) -> None:
        self.arguments: dict[str, Any] = {"validate_loop": validate_loop, "test_loop": test_loop, **kwargs}
        self.arguments["allow_training_samples"] = allow_training_samples
        self.training_samples = TrainingSamples(self, allow_training_samples)
        self.arguments |= {key: copy.deepcopy(kwargs[key]) for key in ("strategy", "plugins") if key in kwargs}
        kwargs["plugins"] = with_checkpoint_io(kwargs.get("plugins"), AtomicCheckpointIO())
        if not kwargs.get("barebones"):
            kwargs["callbacks"] = _with_defaults(kwargs.get("callbacks"), kwargs.get("enable_checkpointing"))
        super().__init__(**kwargs)
        if isinstance(self.precision_plugin, HalfPrecision):
            _spare_labels(self, self.precision_plugin)
        if type(self.profiler) is PassThroughProfiler:
            self.profiler = NoProfiler()
        self.cache_dir = Path(self.default_root_dir) / "cache"
        self.variant: Variant = AS_TRAINED
        self.boundary = SafePoint(self)
        self._signal_connector = SignalHandler(self, self.boundary)
        self._checkpoint_connector = NamedCheckpoints(self)
        _after_setup(self.strategy, self._checkpoint_connector.note_configured)

        stock = self.fit_loop
        limits = (stock.min_epochs, stock.max_epochs, stock.min_steps, stock.max_steps)
        inference_mode = self.test_loop.inference_mode
        adopt_fit_loop(self, _build("fit_loop", fit_loop, FitLoop, self), *limits)
        partners = self.fit_loop.evaluation_loops  # pyright: ignore[reportAttributeAccessIssue]  (a FitLoop of ours)
        validate_loop = validate_loop or partners.get("validate_loop")
        test_loop = test_loop or partners.get("test_loop")
        predict_loop = predict_loop or partners.get("predict_loop")
        self.fit_loop.epoch_loop.val_loop = inside_fit(_build("validate_loop", validate_loop, ValidationLoop, self))
        self.validate_loop = _build("validate_loop", validate_loop, ValidationLoop, self)
        self.test_loop = _build("test_loop", test_loop, TestLoop, self)
        self.predict_loop = _build("predict_loop", predict_loop, PredictLoop, self)
        for loop in (self.validate_loop, self.test_loop, self.predict_loop):
            loop.inference_mode = inference_mode

    def _run(self, model: pl.LightningModule, *args: Any, **kwargs: Any) -> Any:
        loop = self._active_loop
        assert isinstance(loop, FitLoop | ValidationLoop | TestLoop | PredictLoop)
        if self.state.fn == TrainerFn.FITTING and not model.automatic_optimization:
            _refuse_automatic_settings(self, model)
        self._checkpoint_connector.announce(kwargs.get("ckpt_path"), kwargs.get("weights_only"))
        with loop.whole_run(model):
            # Lightning loads a checkpoint before it converts the model: double-precision weights would be rounded to
            # single precision on their way, and no resumed or evaluated run would be exact.
            take_precision(self, model)
            return super()._run(model, *args, **kwargs)

    def restore_data_first(self, data: pl.LightningDataModule) -> None:
        """Gives a data module the state of the checkpoint of this run, or that of a model that brings its own.

        Args:
            data: about to be set up, by its own ``setup`` or by that of a data module around it.
        """
        checkpoint = self._checkpoint_connector.read_announced()
        outer = type(self.datamodule).__qualname__  # pyright: ignore[reportAttributeAccessIssue]  (set by a connector)
        state = checkpoint.get(type(data).__qualname__) or checkpoint.get(outer)
        state = state or getattr(self.lightning_module, "data_state", None)
        if state:
            data.load_state_dict(state)

    def check_evaluated(self, loaders: Iterable[Any]) -> None:
        """Refuses to evaluate samples that the model was trained on; called by the evaluation loops."""
        self.training_samples.check(loaders, self._checkpoint_connector.announced)

    def save_checkpoint(self, filepath: Any, weights_only: bool | None = None, storage_options: Any = None) -> None:
        """As Lightning's; beside the checkpoint lies a file with the samples that it was trained on."""
        if self.is_global_zero:
            self.training_samples.save(Path(filepath).parent)
        super().save_checkpoint(filepath, weights_only, storage_options)

    @property
    def estimated_stepping_batches(self) -> int | float:
        """All optimizer steps of a fit; unlike Lightning's it follows a `GradientAccumulationScheduler`."""
        estimated = super().estimated_stepping_batches
        schedule = next((each for each in self.callbacks if isinstance(each, GradientAccumulationScheduler)), None)
        batches, epochs = self.num_training_batches, self.max_epochs
        if schedule is None or epochs in (None, -1) or batches == float("inf"):
            return estimated
        per_step = [schedule.get_accumulate_grad_batches(epoch) for epoch in range(epochs)]
        steps = sum(math.ceil(batches / number) for number in per_step)
        return steps if self.max_steps == -1 else min(steps, self.max_steps)

    @property
    def run_checkpoint(self) -> RunCheckpoint | None:
        """The callback that decides when to write checkpoints, None when there are none to be written."""
        return run_checkpoint(self)


def _after_setup(strategy: Strategy, note: Callable[[], None]) -> None:
    """Lets ``note`` be called when the optimizers are made; callbacks such as Lightning's tuners change them next."""
    set_up = strategy.setup_optimizers

    def setup_optimizers(trainer: pl.Trainer) -> None:
        set_up(trainer)
        note()

    strategy.setup_optimizers = setup_optimizers


def take_precision(trainer: pl.Trainer, model: pl.LightningModule) -> None:
    """Gives a model the precision of a trainer that trains in double or half precision throughout."""
    if isinstance(trainer.precision_plugin, DoublePrecision | HalfPrecision):
        trainer.precision_plugin.convert_module(model)


def _spare_labels(trainer: pl.Trainer, plugin: HalfPrecision) -> None:
    """Keeps true values whole where they are scored against: half precision would round them as it does the inputs."""
    convert = plugin.convert_input

    def convert_input(data: Any) -> Any:
        converted = convert(data)
        if isinstance(data, Batch) and "label" in data and not trainer.training:
            converted["label"] = data["label"]
        return converted

    plugin.convert_input = convert_input


def _build(slot: str, factory: Callable[[pl.Trainer], Any] | None, base: type, trainer: Trainer) -> Any:
    loop = (factory or base)(trainer)
    if not isinstance(loop, base):
        raise UserError(
            f"trainer.{slot} is a {type(loop).__name__}; it takes a {base.__name__} or a class derived from it"
        )
    return loop


def _refuse_automatic_settings(trainer: Trainer, model: pl.LightningModule) -> None:
    """The Trainer clips and accumulates only where it steps the optimizer itself."""
    arguments = inspect.signature(type(model).__init__).parameters
    for setting, unset, own, otherwise in (
        ("gradient_clip_val", (None, 0), "gradient_clip_val", "clip in its training_step"),
        ("accumulate_grad_batches", (1,), "micro_batches", "accumulate in its training_step"),
    ):
        value = getattr(trainer, setting)
        if value not in unset:
            remedy = f"take it out and set --model.init_args.{own} {value}" if own in arguments else otherwise
            raise UserError(
                f"trainer.{setting} is {value}, but {type(model).__name__} steps its optimizers by hand: {remedy}"
            )


def with_checkpoint_io(plugins: Any, checkpoint_io: CheckpointIO) -> list[Any]:
    """The plugins of a trainer, with ``checkpoint_io`` among them unless they have one of their own."""
    plugins = list(plugins) if isinstance(plugins, list | tuple) else [plugins] if plugins is not None else []
    return plugins if any(isinstance(plugin, CheckpointIO) for plugin in plugins) else [*plugins, checkpoint_io]


def _with_defaults(callbacks: Any, enable_checkpointing: bool | None) -> list[pl.Callback]:
    callbacks = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks] if callbacks is not None else []
    if enable_checkpointing is not False and not any(isinstance(c, RunCheckpoint) for c in callbacks):
        callbacks.append(RunCheckpoint())
    return [*callbacks, FiniteLoss()]
