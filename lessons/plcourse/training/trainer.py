"""Lightning's Trainer with four loop slots, exact evaluation and runs that resume bit for bit."""

import copy
import inspect
import math
from collections.abc import Callable
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
from plcourse.training.checkpoint import AtomicCheckpointIO
from plcourse.training.fast_path import is_enabled
from plcourse.training.leak_check import TrainingSamples
from plcourse.training.loops import FitLoop, PredictLoop, TestLoop, ValidationLoop
from plcourse.training.optimizer_settings import Settings, apply_changes, check_classes, settings_in, settings_of
from plcourse.training.plain_state import from_plain, to_plain
from plcourse.training.run_checkpoint import RunCheckpoint, run_checkpoint
from plcourse.training.safe_points import SafePoint
from plcourse.training.signals import SignalHandler
from plcourse.training.typed_trainer import TypedTrainer
from plcourse.training.variant import AS_TRAINED, Variant


class Trainer(TypedTrainer):
    """Lightning's Trainer, with its loops as arguments.

    Each slot takes a callable that builds the loop from the trainer; in a config this is a ``class_path`` with
    ``init_args``. An empty slot gets the loop that the fit loop provides (`FitLoop.evaluation_loops`), or else the
    default one. Epoch and step limits, ``limit_*_batches`` and ``inference_mode`` apply to every loop.

    Args:
        fit_loop: builds the loop of `fit`; `plcourse.training.loops.FitLoop` or a class derived from it.
        validate_loop: builds the loop of `validate`, and a second one for the validation inside `fit`.
        test_loop: builds the loop of `test`.
        predict_loop: builds the loop of `predict`.
        allow_training_samples: whether samples that the model was trained on may be scored; if not, an evaluation that
            contains some is refused (`plcourse.training.leak_check`).
        **kwargs: everything that `pytorch_lightning.Trainer` takes.

    Attributes:
        arguments: the arguments it was created with, from which a loop can create similar trainers. Strategy and
            plugins are unused copies, because those in use belong to one trainer.
        cache_dir: folder for what several runs can use, below the root of the runs or `default_root_dir`.
        variant: how an evaluation differs from the run as it was trained; set by the command line.
        check_loaded: called with each checkpoint that is loaded and its path, to refuse it; set by the command line.

    Raises:
        UserError: a slot contains something that is not a loop of that stage, a plugin writes checkpoints in another
            way, or ``accumulate_grad_batches`` is below 1.
    """

    _checkpoint_connector: "CheckpointConnector"

    def __init__(
        self,
        fit_loop: Callable[[pl.Trainer], FitLoop] | None = None,
        validate_loop: Callable[[pl.Trainer], ValidationLoop] | None = None,
        test_loop: Callable[[pl.Trainer], TestLoop] | None = None,
        predict_loop: Callable[[pl.Trainer], PredictLoop] | None = None,
        allow_training_samples: bool = False,
        **kwargs: Any,
    ) -> None:
        if (number := kwargs.get("accumulate_grad_batches", 1)) < 1:
            raise UserError(f"trainer.accumulate_grad_batches is {number}; it must be 1 or more")
        self.arguments: dict[str, Any] = {"validate_loop": validate_loop, "test_loop": test_loop, **kwargs}
        self.arguments["allow_training_samples"] = allow_training_samples
        self.arguments |= {key: copy.deepcopy(kwargs[key]) for key in ("strategy", "plugins") if key in kwargs}
        self.training_samples = TrainingSamples(self, allow_training_samples)
        _refuse_other_checkpoints(kwargs.get("plugins"), kwargs.get("strategy"))
        kwargs["plugins"] = with_checkpoint_io(kwargs.get("plugins"), AtomicCheckpointIO())
        if not kwargs.get("barebones"):
            kwargs["callbacks"] = _with_defaults(kwargs.get("callbacks"), kwargs.get("enable_checkpointing"))
        super().__init__(**kwargs)
        if isinstance(self.precision_plugin, HalfPrecision):
            _keep_label_precision(self, self.precision_plugin)
        if type(self.profiler) is PassThroughProfiler and is_enabled():
            self.profiler = NoProfiler()
        self.cache_dir = Path(self.default_root_dir) / "cache"
        self.variant: Variant = AS_TRAINED
        self.check_loaded: Callable[[dict[str, Any], Path], None] = lambda checkpoint, path: None
        self.safe_point = SafePoint(self)
        self._signal_connector = SignalHandler(self, self.safe_point)
        self._checkpoint_connector = CheckpointConnector(self)
        _call_after_setup(self.strategy, self._checkpoint_connector.record_settings)

        stock = self.fit_loop
        fit = _build("fit_loop", fit_loop, FitLoop, self)
        fit.min_epochs, fit.max_epochs = stock.min_epochs, stock.max_epochs
        fit.epoch_loop.min_steps, fit.epoch_loop.max_steps = stock.min_steps, stock.max_steps
        self.fit_loop = fit
        validate_loop = validate_loop or fit.evaluation_loops.get("validate_loop")
        test_loop = test_loop or fit.evaluation_loops.get("test_loop")
        predict_loop = predict_loop or fit.evaluation_loops.get("predict_loop")
        fit.epoch_loop.val_loop = _build("validate_loop", validate_loop, ValidationLoop, self)
        fit.epoch_loop.val_loop._trainer_fn = TrainerFn.FITTING
        # Inference mode would leave inference tensors in metrics and buffers that training goes on to use.
        fit.epoch_loop.val_loop.inference_mode = False
        inference_mode = self.test_loop.inference_mode
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
        self.path_to_restore = kwargs.get("ckpt_path")
        self._checkpoint_connector.start_run(kwargs.get("weights_only"))
        with loop.whole_run(model):
            # Lightning loads a checkpoint before it converts the model: double-precision weights would be rounded to
            # single precision on the way, and no resumed or evaluated run would be exact.
            take_precision(self, model)
            return super()._run(model, *args, **kwargs)

    def restore_data_first(self, data: pl.LightningDataModule) -> None:
        """Gives a data module the state of this run's checkpoint, or that of a model that brings its own.

        Args:
            data: about to be set up, by its own ``setup`` or by that of a data module around it.
        """
        checkpoint = self._checkpoint_connector.read_early()
        outer = type(self.datamodule).__qualname__
        state = checkpoint.get(type(data).__qualname__) or checkpoint.get(outer)
        state = state or getattr(self.lightning_module, "data_state", None)
        if state:
            data.load_state_dict(state)

    def save_checkpoint(
        self, filepath: str | Path, weights_only: bool | None = None, storage_options: Any = None
    ) -> None:
        """Saves a checkpoint as Lightning does, and beside it a file that lists the training samples."""
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
        """The callback that decides when to write checkpoints; None if none are written."""
        return run_checkpoint(self)


class NoProfiler(PassThroughProfiler):
    """Profiles nothing, like Lightning's default, without creating a context manager for each of 50 hooks a step."""

    _nothing: AbstractContextManager[None] = nullcontext()

    def profile(self, action_name: str) -> AbstractContextManager[None]:  # pyright: ignore[reportIncompatibleMethodOverride]  (a generator there)
        """Returns the same empty context every time."""
        return self._nothing


class CheckpointConnector(_CheckpointConnector):
    """Saves and restores what makes a run of this suite resume exactly.

    Besides what Lightning does, it finds ``best`` and ``last`` among the files of `RunCheckpoint` (Lightning looks for
    ``last`` only in its own), stores the settings of the optimizers in each checkpoint and applies changed settings to
    a resumed run (`plcourse.training.optimizer_settings`), and can read the checkpoint before the data are set up.
    """

    trainer: Trainer  # pyright: ignore[reportIncompatibleVariableOverride]
    settings: Settings | None = None
    _weights_only: bool | None = None

    def record_settings(self) -> None:
        """Records the settings of the optimizers before anything changes them."""
        self.settings = settings_of(self.trainer.optimizers, self._schedules)

    def dump_checkpoint(self, weights_only: bool | None = None) -> dict[str, Any]:
        """Returns Lightning's checkpoint, the settings of the optimizers, and what the weights were trained on."""
        settings = {} if weights_only or self.settings is None else {"configured": self.settings}
        dumped = super().dump_checkpoint(weights_only)
        plain = {key: part if key.endswith("hyper_parameters") else to_plain(part) for key, part in dumped.items()}
        return {**self.trainer.training_samples.states(), **plain, **settings}

    def restore_callbacks(self) -> None:
        """Restores the callbacks' states, except changed settings that a callback keeps in its state."""
        changed = self.trainer.changed_callbacks or []
        kept = [(callback, name, getattr(callback, name)) for callback, name in changed if hasattr(callback, name)]
        super().restore_callbacks()
        for callback, name, value in kept:
            setattr(callback, name, value)

    def restore_loops(self) -> None:
        """Restores the loops.

        Raises:
            UserError: the run of the checkpoint has already trained for more epochs than requested.
        """
        try:
            super().restore_loops()
        except MisconfigurationException as error:
            trainer = self.trainer
            raise UserError(
                f"trainer.max_epochs is {trainer.max_epochs}, but {trainer.current_epoch} epochs are trained already; "
                "set it higher"
            ) from error

    def restore_optimizers_and_schedulers(self) -> None:
        """Restores optimizers and schedules, then applies the settings that have changed."""
        if not self._loaded_checkpoint or self.settings is None:
            super().restore_optimizers_and_schedulers()
            return
        before = settings_in(self._loaded_checkpoint)
        check_classes(before, self.settings)
        super().restore_optimizers_and_schedulers()
        apply_changes(before, self.settings, self.trainer.optimizers, self._schedules)

    @property
    def _schedules(self) -> list[Any]:
        return [config.scheduler for config in self.trainer.lr_scheduler_configs]

    def start_run(self, weights_only: bool | None) -> None:
        """Forgets the checkpoint of the previous run, and records how to load that of the next."""
        self._weights_only, self._loaded_checkpoint = weights_only, {}

    def read_early(self) -> dict[str, Any]:
        """Returns the checkpoint that will be restored, empty for none; a collective of all ranks."""
        if not self._loaded_checkpoint and not self.trainer.strategy.restore_checkpoint_after_setup:
            self.resume_start(self.trainer.path_to_restore, self._weights_only)
        return self._loaded_checkpoint

    def resume_start(self, checkpoint_path: Any = None, weights_only: bool | None = None) -> None:
        """Reads the checkpoint, unless `read_early` has read it."""
        if self._loaded_checkpoint and checkpoint_path == self._ckpt_path:
            return
        super().resume_start(checkpoint_path, weights_only)
        self._loaded_checkpoint = from_plain(self._loaded_checkpoint)
        if self._loaded_checkpoint:
            self.trainer.check_loaded(self._loaded_checkpoint, Path(checkpoint_path))
            self.trainer.training_samples.take_over(self._loaded_checkpoint, checkpoint_path)

    def _parse_ckpt_path(self, state_fn: TrainerFn, ckpt_path: Any, *args: Any, **kwargs: Any) -> Any:
        callback = self.trainer.run_checkpoint
        if ckpt_path in ("best", "last") and callback is not None:
            found = callback.best_model_path if ckpt_path == "best" else callback.last_model_path
            if found:
                return found
            where = f"in {callback.dirpath}" if callback.dirpath else "because nothing was fitted"
            raise UserError(f"there is no {ckpt_path} checkpoint {where}")
        return super()._parse_ckpt_path(state_fn, ckpt_path, *args, **kwargs)


def _call_after_setup(strategy: Strategy, function: Callable[[], None]) -> None:
    """Has the strategy call a function once it has created the optimizers, before callbacks can change them."""
    set_up = strategy.setup_optimizers

    def setup_optimizers(trainer: pl.Trainer) -> None:
        set_up(trainer)
        function()

    strategy.setup_optimizers = setup_optimizers


def take_precision(trainer: pl.Trainer, model: pl.LightningModule) -> None:
    """Converts a model to the precision of a trainer that trains entirely in double or half precision."""
    if isinstance(trainer.precision_plugin, DoublePrecision | HalfPrecision):
        trainer.precision_plugin.convert_module(model)


def _keep_label_precision(trainer: pl.Trainer, plugin: HalfPrecision) -> None:
    """Keeps half precision from rounding the labels that evaluation compares with, as it rounds the inputs."""
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
    """Refuses settings that have no effect where the module steps its optimizers itself."""
    arguments = inspect.signature(type(model).__init__).parameters
    for setting, unset, argument, otherwise in (
        ("gradient_clip_val", (None, 0), "gradient_clip_val", "clip in its training_step"),
        ("accumulate_grad_batches", (1,), "micro_batches", "accumulate in its training_step"),
    ):
        value = getattr(trainer, setting)
        if value not in unset:
            known = argument in arguments
            remedy = f"remove it and set --model.init_args.{argument} {value}" if known else otherwise
            raise UserError(
                f"trainer.{setting} is {value}, but {type(model).__name__} steps its optimizers by hand: {remedy}"
            )


def with_checkpoint_io(plugins: Any, checkpoint_io: CheckpointIO) -> list[Any]:
    """Returns the plugins of a trainer with ``checkpoint_io`` added, unless they contain one already."""
    plugins = _as_list(plugins)
    return plugins if any(isinstance(plugin, CheckpointIO) for plugin in plugins) else [*plugins, checkpoint_io]


def _refuse_other_checkpoints(plugins: Any, strategy: object) -> None:
    """Refuses plugins that write checkpoints in another way, such as later or without a checksum."""
    for writer in (*_as_list(plugins), getattr(strategy, "_checkpoint_io", None)):
        if isinstance(writer, CheckpointIO) and not isinstance(writer, AtomicCheckpointIO):
            raise UserError(
                f"the trainer contains {type(writer).__name__}, but a run needs checkpoints that are complete and have "
                "a checksum before training continues; remove it"
            )


def _with_defaults(callbacks: Any, enable_checkpointing: bool | None) -> list[pl.Callback]:
    callbacks = _as_list(callbacks)
    if enable_checkpointing is not False and not any(isinstance(c, RunCheckpoint) for c in callbacks):
        callbacks.append(RunCheckpoint())
    return [*callbacks, FiniteLoss()]


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
