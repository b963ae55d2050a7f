"""One fold: a fit of its own, from a state that no other fold has touched, in a folder that is a run of its own."""

import copy
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytorch_lightning as pl
import yaml
from pytorch_lightning.callbacks import Callback, ProgressBar

from plcourse.errors import Interrupted, RunFailed, UserError, first_line
from plcourse.files import atomic_write, write_json, write_text
from plcourse.kfold.fold_data import fold_config
from plcourse.kfold.folds import Fold, Plan
from plcourse.kfold.leaks import LeakGuard
from plcourse.kfold.outputs import Combine, Recording, out_of_fold_rows
from plcourse.processes.collectives import from_rank_0, gather_objects
from plcourse.runs.class_names import short_class_names
from plcourse.runs.config_yaml import write_tree
from plcourse.runs.environment import environment
from plcourse.runs.evaluations import save_evaluation
from plcourse.runs.record import SCHEMA
from plcourse.runs.recorder import RunRecorder, TidyLogger
from plcourse.runs.run import OUT_OF_FOLD, Run
from plcourse.training import random_state
from plcourse.training.callbacks import Coverage
from plcourse.training.checkpoint import BEST, LAST, AtomicCheckpointIO
from plcourse.training.signals import undisturbed
from plcourse.training.trainer import Trainer, with_checkpoint_io
from plcourse.training.variant import AS_TRAINED, Variant

# libyaml's, ten times as fast, where PyYAML has it
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass
class FitTemplate:
    """What every fold starts from, taken before the trainer touched any of it.

    Attributes:
        model: as it was built, never trained.
        data: the data module, to be split anew for each fold.
        callbacks: the user's own, as they were built.
        arguments: of the trainer; see `plcourse.Trainer.arguments`.
        random_state: Python's, NumPy's and torch's, of this process.
        checkpoint_io: writes the checkpoints of all folds, and so proves once that they can be read.
        variant: how the evaluation differs from the run as it was trained.
    """

    model: pl.LightningModule
    data: Any
    callbacks: list[Callback]
    arguments: dict[str, Any]
    random_state: dict[str, Any]
    checkpoint_io: AtomicCheckpointIO = field(default_factory=AtomicCheckpointIO)
    variant: Variant = AS_TRAINED

    @classmethod
    def of(cls, trainer: Trainer, model: pl.LightningModule) -> "FitTemplate":
        """Copies what a trainer is about to work on."""
        given = trainer.arguments.get("callbacks") or []
        given = [given] if isinstance(given, Callback) else given
        own = [callback for callback in given if not isinstance(callback, RunRecorder | ProgressBar)]
        slots = {key: None for key in ("validate_loop", "test_loop") if hasattr(getattr(trainer, key), "scores_folds")}
        data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]  (set by a connector)
        arguments = {**trainer.arguments, **slots}
        start = (copy.deepcopy(model), data, copy.deepcopy(own), arguments, random_state.capture())
        return cls(*start, variant=trainer.variant)

    def new_model(self) -> pl.LightningModule:
        """A model with the weights that it was built with."""
        return copy.deepcopy(self.model)

    def new_trainer(self, folder: Path, callbacks: list[Callback], logger: Any = False, **changes: Any) -> Trainer:
        """A trainer like the one that was configured, which writes into another folder."""
        settings = dict(self.arguments)
        for key in ("strategy", "plugins"):  # a trainer makes these its own
            if key in settings:
                settings[key] = copy.deepcopy(settings[key])
        settings["plugins"] = with_checkpoint_io(settings.get("plugins"), self.checkpoint_io)
        settings |= {"enable_progress_bar": False, "enable_model_summary": False, **changes}
        trainer = Trainer(**{**settings, "default_root_dir": str(folder), "logger": logger, "callbacks": callbacks})
        trainer.variant = self.variant
        return trainer


class FoldRun:
    """The folder of one fold: ``run.json``, ``metrics.csv``, ``checkpoints/``, ``eval/``, ``predictions/``.

    Args:
        fold: the fold.
        folder: ``<run>/folds/<number>``.
    """

    def __init__(self, fold: Fold, folder: Path) -> None:
        self.fold, self.path, self.run = fold, folder, Run(folder)

    @property
    def is_finished(self) -> bool:
        """Whether it was trained and scored to its end."""
        return (self.path / "run.json").is_file() and self.run.status == "finished"

    @property
    def best(self) -> Path | None:
        """The checkpoint that stands for the fold; None where none was written."""
        path = self.path / "checkpoints" / BEST
        return path if path.is_file() else None

    @property
    def last(self) -> Path | None:
        """The checkpoint that training goes on from; None where none was written."""
        path = self.path / "checkpoints" / LAST
        return path if path.is_file() else None

    @property
    def scores(self) -> dict[str, float]:
        """Its scores on the samples held out."""
        return self.run.eval("val")["metrics"]

    @property
    def out_of_fold(self) -> pa.Table | None:
        """Its predictions of the samples held out; None where the model's outputs do not tell them."""
        path = self.path / "predictions" / OUT_OF_FOLD
        return pq.read_table(path) if path.is_file() else None

    def open(self, outer: "ParentRun") -> None:
        """Makes ``run.json`` and ``config.yaml``, or opens the folder again after a kill; for the first rank."""
        self.path.mkdir(parents=True, exist_ok=True)
        now = datetime.now().astimezone().isoformat()
        again = {"status": "running", "started": now, "ended": None, "seconds": None, "error": None}
        record = self.run.record if (self.path / "run.json").is_file() else {}
        if not record:
            own = {"verb": "fit", "created": now, "best": None, "fold": self.fold.number, "repeat": self.fold.repeat}
            record = {**outer.record, **own, "data": {**(outer.record.get("data") or {}), **self.fold.sizes}}
        write_json(self.path / "run.json", {**record, **outer.process, **again})
        if outer.config:
            config = fold_config(outer.config, self.fold.number, outer.cut)
            write_text(self.run.config_path, write_tree(config))

    def split(self, data: Any) -> Any:
        """The data module that trains on this fold's samples and validates on those held out."""
        return data.with_split(self.fold.train_ids, self.fold.val_ids)

    def save(self, stage: str, found: "Scored", processes: int, variant: Variant = AS_TRAINED) -> None:
        """Writes ``eval/<stage>.json``, or that of a variant."""
        scored = (found.metrics, found.coverage, self.best, processes, found.seconds)
        save_evaluation(self.path, stage, *scored, variant=variant)


@dataclass
class Scored:
    """What an evaluation found.

    Attributes:
        metrics: the model's own.
        coverage: which samples were seen; see `plcourse.training.callbacks.Coverage`.
        recording: the outputs of ``forward`` on this process.
        seconds: how long it took.
    """

    metrics: dict[str, float]
    coverage: dict[str, int] | None
    recording: Recording
    seconds: float


def evaluate(
    start: FitTemplate, verb: str, data: Any, folder: Path, checkpoint: Path | None, fitted: pl.LightningModule | None
) -> Scored:
    """Scores the weights of one fold, by a trainer and a model of its own.

    Args:
        start: the state the fold was trained from.
        verb: validate, test or predict.
        data: the data module to take the samples from.
        folder: where the trainer belongs.
        checkpoint: the weights; None for those of ``fitted``.
        fitted: the trained model, where there is no checkpoint.
    """
    coverage, recording = Coverage(), Recording()
    trainer = start.new_trainer(folder, [coverage, recording], enable_checkpointing=False)
    began = time.monotonic()
    model = start.new_model() if fitted is None else fitted
    arguments: dict[str, Any] = {"datamodule": data, "ckpt_path": checkpoint, "weights_only": True}
    with warnings.catch_warnings():
        # the training's callbacks are left out on purpose: those that average weights would swap them again
        warnings.filterwarnings("ignore", message="Be aware that when using `ckpt_path`, callbacks used to create")
        if verb == "predict":
            trainer.predict(model, return_predictions=False, **arguments)
            results = []
        else:
            results = (trainer.test if verb == "test" else trainer.validate)(model, verbose=False, **arguments)
    metrics = {name: value for result in results for name, value in result.items()}
    return Scored(metrics, coverage.report, recording, time.monotonic() - began)


@dataclass
class ParentRun:
    """What the folders of the folds take from the run they belong to.

    Attributes:
        record: its ``run.json``, or what one would say of this machine.
        config: its ``config.yaml``; empty where there is none.
        cut: how the data are cut, as `FoldData` takes it.
    """

    record: dict[str, Any]
    config: dict[str, Any]
    cut: dict[str, Any]

    @classmethod
    def of(cls, folder: Path, plan: Plan) -> "ParentRun":
        """Reads the run's files."""
        run = Run(folder)
        record = run.record if (folder / "run.json").is_file() else {"schema": SCHEMA, **environment()}
        return cls(record, read_config(run.config_path), plan.cut)

    @property
    def process(self) -> dict[str, Any]:
        """Which process is at it."""
        return {key: self.record.get(key) for key in ("pid", "pid_start")}


def read_config(file: Path) -> dict[str, Any]:
    """A resolved config; empty where there is none."""
    return short_class_names(yaml.load(file.read_bytes(), _LOADER)) if file.is_file() else {}


class FoldTrainer:
    """Trains one fold after another, each as a fit of its own would be trained, and scores it.

    Args:
        start: what each fold starts from.
        combine: how outputs become predictions; see `plcourse.kfold.outputs.Combine`.
        outer: what the folders of the folds take from the run.
        is_first: whether this process keeps the records.
        callbacks: further ones for the training, such as one that moves a bar.
    """

    def __init__(
        self,
        start: FitTemplate,
        combine: Combine,
        outer: ParentRun,
        is_first: bool = True,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.start, self.outer = start, outer
        self.combine: Combine = combine
        self.is_first, self.callbacks = is_first, callbacks

    def __call__(self, folder: FoldRun) -> None:
        """Trains and scores one fold; one that a kill has cut short goes on from its last checkpoint.

        Raises:
            UserError: it could not be finished; the line names the fold.
            Interrupted: a signal ended it, after a checkpoint.
        """
        if self.is_first:
            folder.open(self.outer)
        gather_objects(None)  # no rank looks into the folder before it is there
        try:
            self._train_and_score(folder)
        except BaseException as error:
            self._close(folder, error)
            if isinstance(error, UserError):
                raise UserError(f"fold {folder.fold.number}: {error}", error.status) from error
            raise
        self._close(folder)
        gather_objects(None)  # nor reads its scores before they are

    def _train_and_score(self, folder: FoldRun) -> None:
        start = self.start
        random_state.apply(start.random_state)
        model, data = start.new_model(), folder.split(start.data)
        table = TidyLogger(folder.path / "metrics.csv")
        # what is in the folder says rank 0, which writes it: another may look too early, and take another path
        last = from_rank_0(folder.last)
        if last is None and self.is_first:
            table.cut(0)  # killed before its first checkpoint: it starts over
        guard = LeakGuard(folder.fold.val_ids, folder.fold.train_ids)
        own = [*copy.deepcopy(start.callbacks), guard, *self.callbacks, RunRecorder(folder.run, table)]
        trainer = start.new_trainer(folder.path, own, table)
        trainer.fit(model, data, ckpt_path=last, weights_only=True)
        best = from_rank_0(folder.best)
        found = evaluate(start, "validate", folder.split(start.data), folder.path, best, model)
        rows = _gathered(found.recording, self.combine, folder.fold)
        if self.is_first:
            if rows is not None:
                write_table(folder.path / "predictions" / OUT_OF_FOLD, rows)
            folder.save("val", found, trainer.world_size)

    def _close(self, folder: FoldRun, error: BaseException | None = None) -> None:
        if not self.is_first:
            return
        with undisturbed():
            if error is None:
                folder.run.finish("finished")
            elif isinstance(error, Interrupted | KeyboardInterrupt):
                folder.run.finish("interrupted")
            else:
                with suppress(RunFailed):  # on a full disk there is no place for the reason either
                    folder.run.finish("failed", error=first_line(error))


def _gathered(recording: Recording, combine: Combine, fold: Fold) -> pa.Table | None:
    """The out-of-fold predictions of all ranks; a collective. None where any rank cannot tell its own."""
    own = out_of_fold_rows(recording, combine, fold.repeat, fold.number)
    parts = gather_objects((bool(recording.batches), own))
    tables = [table for has_any, table in parts if has_any]
    return None if not tables or any(table is None for table in tables) else pa.concat_tables(tables)


def write_table(path: Path, table: pa.Table) -> None:
    """Writes a Parquet file, whole or not at all.

    Raises:
        RunFailed: it cannot be written.
    """
    with atomic_write(path) as temporary:
        path.parent.mkdir(exist_ok=True)
        with temporary.open("wb") as file:
            pq.write_table(table, file)
