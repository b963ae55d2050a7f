"""Trains and scores one fold from a state that no other fold has touched."""

import copy
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ProgressBar, Timer
from pytorch_lightning.loggers import Logger

from plcourse.errors import Interrupted, RunFailed, UserError, first_line
from plcourse.kfold.fold_run import FoldRun, ParentRun, write_table
from plcourse.kfold.folds import Fold
from plcourse.kfold.leaks import LeakGuard
from plcourse.kfold.outputs import Combine, Recording, out_of_fold_rows
from plcourse.processes.collectives import from_rank_0, gather_objects
from plcourse.runs.recorder import RunRecorder, TidyLogger, save_evaluation
from plcourse.runs.run import OUT_OF_FOLD
from plcourse.training import random_state
from plcourse.training.callbacks import Coverage
from plcourse.training.checkpoint import AtomicCheckpointIO
from plcourse.training.signals import undisturbed
from plcourse.training.trainer import Trainer, with_checkpoint_io
from plcourse.training.variant import AS_TRAINED, Variant


@dataclass
class FoldTrainer:
    """Trains and scores one fold after another, each like a fit of that fold alone."""

    template: "FitTemplate"  # what each fold starts from
    combine: Combine  # how outputs become predictions
    parent: ParentRun  # what the folders of the folds take from the run
    is_first: bool = True  # whether this process writes the records
    callbacks: Sequence[Callback] = ()  # further ones for the training

    def __call__(self, fold: FoldRun) -> None:
        """Trains and scores one fold; a fold that was killed resumes from its last checkpoint.

        Raises:
            UserError: the fold failed; the message names it.
            Interrupted: a signal ended it after a checkpoint.
        """
        if self.is_first:
            fold.open(self.parent)
        gather_objects(None)  # no rank reads the folder before it exists
        try:
            self._train_and_score(fold)
        except BaseException as error:
            self._close(fold, error)
            if isinstance(error, UserError):
                raise UserError(f"fold {fold.fold.number}: {error}", error.status) from error
            raise
        self._close(fold)
        gather_objects(None)  # no rank reads the scores before they exist

    def _train_and_score(self, fold: FoldRun) -> None:
        template = self.template
        random_state.apply(template.random_state)
        model, data = copy.deepcopy(template.model), fold.split(template.data)
        table = TidyLogger(fold.path / "metrics.csv")
        last = from_rank_0(fold.last)  # rank 0 writes the folder; another rank might look before it has
        if last is None and self.is_first:
            table.cut(0)  # killed before its first checkpoint: the fold starts over
        guard = LeakGuard(fold.fold.val_ids, fold.fold.train_ids)
        recorder = RunRecorder(fold.run, table)
        callbacks = [*copy.deepcopy(template.callbacks), guard, *self.callbacks, recorder]
        trainer = template.new_trainer(fold.path, callbacks, table)
        trainer.check_loaded = recorder.refuse_foreign
        trainer.fit(model, data, ckpt_path=last, weights_only=True)
        scored = evaluate(template, "validate", fold.split(template.data), fold, model)
        rows = _gathered(scored.recording, self.combine, fold.fold)
        if self.is_first:
            if rows is not None:
                write_table(fold.path / "predictions" / OUT_OF_FOLD, rows)
            scored.save(fold, "val", trainer.world_size)

    def _close(self, fold: FoldRun, error: BaseException | None = None) -> None:
        if not self.is_first:
            return
        with undisturbed():
            if error is None:
                fold.run.finish("finished")
            elif isinstance(error, Interrupted | KeyboardInterrupt):
                fold.run.finish("interrupted")
            else:
                with suppress(RunFailed):  # on a full disk the reason cannot be written either
                    fold.run.finish("failed", error=first_line(error))


@dataclass
class FitTemplate:
    """What every fold starts from, copied before the trainer touched any of it."""

    model: pl.LightningModule
    data: Any  # a data module that is `Splittable`
    callbacks: list[Callback]  # the user's
    arguments: dict[str, Any]  # see `plcourse.Trainer.arguments`
    random_state: random_state.States  # Python's, NumPy's and torch's
    variant: Variant  # how an evaluation differs from the run as trained
    checkpoint_io: AtomicCheckpointIO = field(default_factory=AtomicCheckpointIO)  # verifies once that it can read

    @classmethod
    def of(cls, trainer: Trainer, model: pl.LightningModule) -> "FitTemplate":
        """Copies what a trainer is about to work on."""
        given = trainer.arguments.get("callbacks") or []
        given = [given] if isinstance(given, Callback) else given
        own = [callback for callback in given if not isinstance(callback, RunRecorder | ProgressBar)]
        limit = trainer.arguments.get("max_time")
        if limit is not None and not any(isinstance(callback, Timer) for callback in own):  # as Lightning does
            own.append(Timer(limit))
        slots = {key: None for key in ("validate_loop", "test_loop") if hasattr(getattr(trainer, key), "scores_folds")}
        arguments, states = {**trainer.arguments, **slots, "max_time": None}, random_state.capture()
        return cls(copy.deepcopy(model), trainer.datamodule, copy.deepcopy(own), arguments, states, trainer.variant)

    def divide_time(self, rounds: int) -> float | None:
        """Divides the time limit of a run by the number of folds that are trained one after another.

        Returns:
            The seconds of a fold; None without a limit.
        """
        timers = [callback for callback in self.callbacks if isinstance(callback, Timer) and callback._duration]
        for timer in timers:
            timer._duration /= rounds  # pyright: ignore[reportOperatorIssue]  (it is set)
        return min((timer._duration for timer in timers), default=None)  # pyright: ignore

    def new_trainer(
        self, folder: Path, callbacks: list[Callback], logger: Logger | bool = False, **changes: Any
    ) -> Trainer:
        """A trainer like the configured one that writes into another folder."""
        settings = {**self.arguments, "enable_progress_bar": False, "enable_model_summary": False, **changes}
        if "strategy" in settings:  # a trainer modifies it, and the plugins
            settings["strategy"] = copy.deepcopy(settings["strategy"])
        settings["plugins"] = with_checkpoint_io(copy.deepcopy(settings.get("plugins")), self.checkpoint_io)
        trainer = Trainer(**{**settings, "default_root_dir": str(folder), "logger": logger, "callbacks": callbacks})
        trainer.variant = self.variant
        return trainer


@dataclass
class Scored:
    """The result of an evaluation; ``recording`` has the outputs of ``forward`` on this process."""

    metrics: dict[str, float]
    coverage: dict[str, int] | None
    recording: Recording
    seconds: float

    def save(self, fold: FoldRun, stage: str, processes: int, variant: Variant = AS_TRAINED) -> None:
        """Writes ``eval/<stage>.json`` of a fold, or that of a variant."""
        found = (self.metrics, self.coverage, fold.best, processes, self.seconds)
        save_evaluation(fold.path, stage, *found, variant=variant)


def evaluate(
    template: FitTemplate, verb: str, data: Any, fold: FoldRun, fitted: pl.LightningModule | None = None
) -> Scored:
    """Validates, tests or predicts with a new trainer and the fold's best weights, or those of ``fitted`` without."""
    coverage, recording = Coverage(), Recording()
    trainer = template.new_trainer(fold.path, [coverage, recording], enable_checkpointing=False)
    began = time.monotonic()
    model = copy.deepcopy(template.model) if fitted is None else fitted
    arguments: dict[str, Any] = {"datamodule": data, "ckpt_path": from_rank_0(fold.best), "weights_only": True}
    with warnings.catch_warnings():
        # the callbacks of the training are left out on purpose: those that average weights would swap them again
        warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`, callbacks used to create")
        if verb == "predict":
            trainer.predict(model, return_predictions=False, **arguments)
            results = []
        else:
            results = (trainer.test if verb == "test" else trainer.validate)(model, verbose=False, **arguments)
    metrics = {name: value for result in results for name, value in result.items()}
    return Scored(metrics, coverage.report, recording, time.monotonic() - began)


def _gathered(recording: Recording, combine: Combine, fold: Fold) -> pa.Table | None:
    """The out-of-fold predictions of all ranks, None if any rank has none for its batches; a collective."""
    own = out_of_fold_rows(recording, combine, fold.repeat, fold.number)
    parts = gather_objects((bool(recording.batches), own))
    tables = [table for has_any, table in parts if has_any]
    return None if not tables or any(table is None for table in tables) else pa.concat_tables(tables)
