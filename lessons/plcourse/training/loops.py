"""The loops that a config can replace through the four slots of the Trainer, and what their base classes promise.

A slot takes a class path. Your loop derives from `FitLoop`, `ValidationLoop`, `TestLoop` or `PredictLoop`, takes the
trainer as its first argument and anything else as typed keyword arguments::

    trainer:
      fit_loop:
        class_path: mine.ShoutingFitLoop     # plcourse fit -c this.yaml --trust mine
        init_args: {times: 2}

A training run calls, in this order::

    FitLoop.run
      on_run_start
      for each epoch:
        on_advance_start
        advance -> EpochLoop.run
                     for each batch: advance, on_advance_end -> ValidationLoop.run (when it is due)
        on_advance_end

and an evaluation: ``run`` = ``setup_data``, ``reset``, ``on_run_start``, one step per batch, ``on_run_end``.

What these classes promise beyond Lightning's:

- Training has *safe points*, between two batches and between two epochs, where nothing is half done. Checkpoints are
  written and signals obeyed only there (`plcourse.training.safe_points`), so that every checkpoint resumes bit for bit.
- Evaluation is exact: no sample is padded or repeated, and a rank without samples takes part in every hook and
  collective (`plcourse.training.evaluation_loops`).
- ``trainer.global_step`` counts the batches trained on, even if a module steps several optimizers.
- A step calls only the hooks that do something (`plcourse.training.fast_path`), with the same numbers bit for bit.

Lightning 2 keeps its loops protected. Only this file and the last two that it names import them; they were checked
against pytorch-lightning 2.6.0 to 2.6.6 and refuse anything but 2.6.
"""

import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loops.fetchers import _DataFetcher
from pytorch_lightning.loops.fit_loop import _FitLoop
from pytorch_lightning.loops.loop import _Loop
from pytorch_lightning.loops.optimization.manual import _ManualOptimization
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature

from plcourse.console import say
from plcourse.errors import UserError
from plcourse.training.evaluation_loops import PredictLoop, TestLoop, ValidationLoop
from plcourse.training.fast_path import FastEpochLoop
from plcourse.training.random_state import RandomState
from plcourse.training.typed_trainer import TypedTrainer

__all__ = ["EpochLoop", "FitLoop", "OneIteration", "PredictLoop", "TestLoop", "ValidationLoop"]

_version = pl.__version__  # pyright: ignore[reportPrivateImportUsage]  (where Lightning says its version)
if not _version.startswith("2.6."):
    raise UserError(
        f"pytorch-lightning {_version} is installed; the loop slots were checked against 2.6.0 to 2.6.6: "
        "pip install 'pytorch-lightning>=2.6,<2.7'"
    )


class FitLoop(_FitLoop):
    """The loop of `trainer.fit`; the base of every loop in the slot ``trainer.fit_loop``.

    The trainer sets the epoch and step limits after it has created the loop.
    """

    trainer: TypedTrainer  # pyright: ignore[reportIncompatibleVariableOverride]
    # By slot, what builds the loop that evaluates a run of this loop if the slot is empty.
    evaluation_loops: Mapping[str, Callable[[pl.Trainer], Any]] = MappingProxyType({})
    _remembered: object = None  # the loaders whose samples the trainer has recorded

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__(trainer)
        self.epoch_loop = EpochLoop(trainer)

    def whole_run(self, model: pl.LightningModule) -> AbstractContextManager[Any]:
        """Returns the context in which the trainer runs, entered before it touches model, callbacks or data.

        By default it does nothing.
        """
        return nullcontext()

    def setup_data(self) -> None:
        """Sets up the training data and restores a checkpoint's position in them.

        Lightning forgets the position if `estimated_stepping_batches` was used before the checkpoint was loaded.
        """
        super().setup_data()
        if self._combined_loader is not None and self._combined_loader is not self._remembered:
            self._remembered = self._combined_loader
            self.trainer.training_samples.remember(self._combined_loader.flattened)
        if self.restarting and self._combined_loader_states_to_load and self._data_fetcher is not None:
            self._load_combined_loader_states()
            iter(self._data_fetcher)

    def reset(self) -> None:
        """Starts or resumes; a checkpoint from between two epochs begins the next epoch."""
        progress = self.epoch_progress.current
        if self.restarting and progress.ready == progress.completed:
            # With max_steps, Lightning takes every checkpoint for one from mid-epoch and would run an empty epoch.
            _set_restarting(self, False)
        super().reset()
        if progress.ready == progress.completed:
            # The next epoch must create its iterator after the random states are restored, because a shuffling
            # DataLoader draws from them when it creates one.
            self._resuming_from_checkpoint = False

    def on_advance_start(self) -> None:
        """Restores the random states of a checkpoint, if any, before the first hook that could draw from them."""
        self.trainer.safe_point.random_state.restore()
        super().on_advance_start()

    def on_advance_end(self) -> None:
        """Ends the epoch, then passes the safe point after it."""
        super().on_advance_end()
        self.trainer.safe_point.after_epoch()

    def on_save_checkpoint(self) -> dict[str, Any]:
        """Returns Lightning's state, the random states of all ranks, and whether the run was asked to end early."""
        states = {"random_states": RandomState.of_all_ranks(), "should_stop": self.trainer.should_stop}
        return {**super().on_save_checkpoint(), **states}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Restores the state; a run that had stopped early stays stopped unless its callbacks have changed."""
        trainer = self.trainer
        trainer.should_stop = state_dict.get("should_stop", False) and trainer.changed_callbacks is None
        if "random_states" in state_dict:
            states = state_dict["random_states"]
            trainer.safe_point.random_state.prepare(states, trainer.global_rank, trainer.world_size)
        else:
            say(
                "the checkpoint was not written by plcourse and holds no random states, so this run goes on with other "
                "random numbers than the one that wrote it"
            )
        super().on_load_checkpoint(state_dict)


class EpochLoop(FastEpochLoop):
    """One training epoch: a safe point and a batch in turn, until the data are used up."""

    seconds_waited = 0.0  # for batches of the data loader, since the loop was created
    _asked_at = 0.0
    _resumed_at_safe_point = False
    _takes_batch_idx: bool | None = None

    def __init__(self, trainer: pl.Trainer) -> None:
        super().__init__(trainer)
        self.manual_optimization = OneIteration(trainer)

    def reset(self) -> None:
        """Starts or resumes an epoch; says so if a user's loader cannot go on where the checkpoint was written."""
        resumes = self.restarting
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*your dataloader is not resumable")
            super().reset()
        combined, done = self.trainer.fit_loop._combined_loader, self.batch_progress.current.completed
        loaders = combined.flattened if combined is not None and resumes and done else []
        fixed = next((loader for loader in loaders if not hasattr(loader, "load_state_dict")), None)
        if fixed is not None:
            say(
                f"resumed after batch {done} of epoch {self.trainer.current_epoch}, but a {type(fixed).__name__} "
                "always starts at its beginning: the rest of this epoch takes other samples than without the "
                "interruption, while a checkpoint from the end of an epoch resumes exactly"
            )

    def advance(self, data_fetcher: _DataFetcher) -> None:
        """Passes the safe point before the next batch, then trains on that batch."""
        if self.restarting and self._resumed_at_safe_point:
            # The checkpoint contains the validation that was due. Lightning would spend an iteration to find that out
            # and count a step that never happened.
            _set_restarting(self, False)
        elif self.batch_progress.current.ready and not self.restarting and not self._should_accumulate():
            # No checkpoint contains gradients that are still being accumulated.
            self.trainer.safe_point.between_batches()
        super().advance(data_fetcher)

    def prepare(self, batch: Any, batch_idx: int) -> Any:
        """Returns the batch for ``training_step``; a derived loop may add to it here."""
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

    def _on_before_fetch(self) -> None:
        super()._on_before_fetch()
        self._asked_at = time.perf_counter()

    def _on_after_fetch(self) -> None:
        self.seconds_waited += time.perf_counter() - self._asked_at
        super()._on_after_fetch()

    def on_save_checkpoint(self) -> dict[str, Any]:
        """Returns Lightning's state, and whether it was saved at a safe point."""
        return {**super().on_save_checkpoint(), "at_boundary": self.trainer.safe_point.saving}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Restores the state."""
        self._resumed_at_safe_point = state_dict.get("at_boundary", False)
        super().on_load_checkpoint(state_dict)

    def _broadcast_sigterm_tensor(self) -> None:
        """Does nothing: the ranks agree on signals at safe points, and Lightning's broadcast hears only rank 0."""


class OneIteration(_ManualOptimization):
    """One batch of a module that steps its optimizers itself: one step of the run, however many optimizers stepped.

    Lightning counts every ``optimizer.step()`` (issue 17958), so that ``max_steps`` and everything else that uses
    ``global_step`` would count a GAN's iterations twice. Here ``trainer.global_step``, which is also the x axis of the
    loggers, is the number of batches trained on.
    """

    trainer: TypedTrainer  # pyright: ignore[reportIncompatibleVariableOverride]

    def run(self, kwargs: OrderedDict[str, Any]) -> dict[str, Any]:
        """Trains on one batch and counts it once."""
        self.optim_step_progress.increment_ready()
        output = super().run(kwargs)
        self.optim_step_progress.increment_completed()
        return output

    def _on_before_step(self) -> None:
        self.trainer.profiler.start("optimizer_step")

    def _on_after_step(self) -> None:
        self.trainer.profiler.stop("optimizer_step")


def _set_restarting(loop: _Loop, value: bool) -> None:
    # FitLoop's property would change the value.
    setter = _Loop.restarting.fset
    assert setter is not None
    setter(loop, value)
