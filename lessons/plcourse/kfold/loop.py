"""Lesson 14: cross-validation as the fit loop of one run.

The idea: `trainer.fit` runs whatever loop is in the slot ``trainer.fit_loop``. This one does not train the model that
it is given. It takes it as a pattern: for every fold it builds a trainer like the one it runs in, a copy of the
untouched model and callbacks, and the data module split anew, and lets them fit into ``folds/<k>/``. A fold starts
clean because nothing in it is old, so it is bit for bit the fit that one would have run on that fold alone.

    plcourse fit -c kfold/classifier --then validate,test,predict

The estimate is the mean over the folds (Stone 1974, JRSS B 36:111); its interval is corrected for the training sets
that the folds share (Nadeau and Bengio 2003, Machine Learning 52:239).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, ProgressBar

from plcourse.data import run_seed
from plcourse.data.provenance import trainings_of
from plcourse.errors import Interrupted, RunFailed, UserError, nearest
from plcourse.files import write_json
from plcourse.kfold.bar import FoldBar
from plcourse.kfold.evaluation import KFoldPredictLoop, KFoldTestLoop, KFoldValidationLoop
from plcourse.kfold.fold_data import fold_config
from plcourse.kfold.fold_trainer import FitTemplate, FoldRun, FoldTrainer, ParentRun, read_config
from plcourse.kfold.folds import Plan, check_splittable, plan_folds
from plcourse.kfold.outputs import Combine
from plcourse.kfold.summary import Summary
from plcourse.processes.collectives import from_rank_0, gather_objects, maximum
from plcourse.processes.workers import Crew, Signals, send_output_to
from plcourse.runs.changes import check_folds
from plcourse.runs.record import read_record
from plcourse.runs.recorder import RunRecorder
from plcourse.training.checkpoint import BEST, LAST, MIN_SECONDS, link, load
from plcourse.training.loops import FitLoop
from plcourse.training.trainer import Trainer

PLAN = "plan.json"


class KFoldLoop(FitLoop):
    """Cross-validates the model of a run; slot ``trainer.fit_loop``.

    It brings its evaluation loops along: where the other slots are left empty, ``validate`` scores each fold on the
    samples that it never saw, and ``test`` and ``predict`` take the ensemble of the folds.

    Args:
        trainer: the trainer that runs it.
        n_splits: folds per repeat, 2 or more.
        n_repeats: times that all samples are cut anew, 1 or more.
        stratified: whether each fold gets every class's share; None where the labels are classes.
        groups: whether the samples of one group stay together; None where the data have groups.
        folds: the numbers of the folds to run, of 0 to n_splits * n_repeats - 1; None for all.
        n_jobs: folds at a time, each in a process of its own where there are several.
        random_state: fixes the folds, as in scikit-learn; the run's seed fixes everything else.
        monitor: the score that stands for the run, such as ``val/accuracy``; None for that of `RunCheckpoint`, else
            ``val/loss``.
        mode: whether a larger (``max``) or a smaller (``min``) ``monitor`` is better.
        combine: how outputs of the model become predictions: ``logits`` by a softmax, ``values`` as they are; None
            decides by the labels.
    """

    evaluation_loops: Mapping[str, Callable[[pl.Trainer], Any]] = MappingProxyType(
        {"validate_loop": KFoldValidationLoop, "test_loop": KFoldTestLoop, "predict_loop": KFoldPredictLoop}
    )

    def __init__(
        self,
        trainer: pl.Trainer,
        n_splits: int = 5,
        n_repeats: int = 1,
        stratified: bool | None = None,
        groups: bool | None = None,
        folds: list[int] | None = None,
        n_jobs: int = 1,
        random_state: int = 0,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "min",
        combine: Combine | None = None,
    ) -> None:
        super().__init__(trainer)
        if n_jobs < 1:
            raise UserError(f"n_jobs is {n_jobs}; it must be 1 or more")
        self.n_splits, self.n_repeats, self.folds = n_splits, n_repeats, folds
        self.stratified, self.groups, self.random_state = stratified, groups, random_state
        self.n_jobs, self.monitor, self.mode = n_jobs, monitor, mode
        self.combine: Combine | None = combine
        self._restored = False
        self._saved_at = 0.0

    @contextmanager
    def whole_run(self, model: pl.LightningModule) -> Iterator[None]:
        """Takes what the folds start from, and keeps the run's own trainer away from callbacks that are theirs."""
        trainer = self._trainer
        check_splittable(trainer.datamodule)  # pyright: ignore[reportAttributeAccessIssue]  (set by a connector)
        self._start = FitTemplate.of(trainer, model)
        self._keeper = trainer.run_checkpoint
        if self._keeper is not None:
            self._keeper.dirpath = str(Path(trainer.default_root_dir) / "checkpoints")
        kept, sanity = trainer.callbacks, trainer.num_sanity_val_steps
        self._bar = FoldBar(any(isinstance(callback, ProgressBar) for callback in kept) and trainer.is_global_zero)
        self._best_fold = BestFold()
        trainer.callbacks = [*(callback for callback in kept if isinstance(callback, RunRecorder)), self._best_fold]
        trainer.num_sanity_val_steps = 0
        try:
            yield
        finally:
            self._bar.close()
            trainer.callbacks, trainer.num_sanity_val_steps = kept, sanity

    def run(self) -> None:
        """Trains and scores the folds that are not finished yet, then sums all of them up."""
        trainer = self._trainer
        folder = Path(trainer.default_root_dir)
        if self.n_jobs > 1 and trainer.world_size > 1:
            raise UserError(
                f"n_jobs is {self.n_jobs} in a run of {trainer.world_size} processes; these share each fold, so n_jobs "
                "must be 1"
            )
        plan = plan_folds(
            self._start.data, self.n_splits, self.n_repeats, self.stratified, self.groups, self.random_state
        )
        folds = [FoldRun(fold, folder / "folds" / str(fold.number)) for fold in plan.chosen(self.folds)]
        self._hold_to(plan, folder / "folds" / PLAN)
        finished = from_rank_0([fold.fold.number for fold in folds if fold.is_finished])
        pending = [fold for fold in folds if fold.fold.number not in finished]
        gather_objects(None)  # every rank has read the plan before the first one writes
        if trainer.is_global_zero:
            (folder / "folds").mkdir(exist_ok=True)
            write_json(folder / "folds" / PLAN, self._terms(plan))
        for recorder in self._recorders:
            recorder.on_train_start(trainer, trainer.lightning_module)
        self._summary = Summary(plan, folds, *self._monitored())
        self._bar.open(folds, pending)
        self._fold_ended(None)
        combine = self.combine or plan.combine
        fit = FoldTrainer(self._start, combine, ParentRun.of(folder, plan), trainer.is_global_zero, [self._bar])
        if self.n_jobs == 1:
            self._one_after_another(fit, pending)
        elif pending:
            self._several_at_a_time(fit, pending)
        self._bar.close()
        for recorder in self._recorders:
            recorder.on_train_end(trainer, trainer.lightning_module)
        if trainer.is_global_zero:
            self._summary.conclude(folder, trainer.loggers)

    def on_save_checkpoint(self) -> dict[str, Any]:
        """What says that the checkpoint is one of a cross-validation; the folds have checkpoints of their own."""
        return {"kfold": True}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Refuses a checkpoint of anything else."""
        if "kfold" not in state_dict:
            raise UserError(
                "KFoldLoop trains every fold from fresh weights and cannot start from a checkpoint of another kind of "
                "run; --run RUN --ckpt_path last continues a cross-validation"
            )
        self._restored = True

    @property
    def _trainer(self) -> Trainer:
        assert isinstance(self.trainer, Trainer)
        return self.trainer

    @property
    def _recorders(self) -> list[RunRecorder]:
        return [callback for callback in self._trainer.callbacks if isinstance(callback, RunRecorder)]

    def _terms(self, plan: Plan) -> dict[str, Any]:
        """What a resumed run must have in common with its beginning."""
        trainer = self._trainer
        limits = {"max_epochs": trainer.max_epochs, "max_steps": trainer.max_steps}
        return {**plan.terms, "seed": run_seed(), **limits, "classes": plan.classes}

    def _hold_to(self, plan: Plan, file: Path) -> None:
        """Refuses to go on with other folds than a run began with.

        Raises:
            UserError: the first thing that has changed, or a checkpoint from another run's folder.
        """
        if not file.is_file():
            if self._restored:
                raise UserError("a cross-validation is continued in its own folder: --run RUN --ckpt_path last")
            return
        before = read_record(file)
        for name, value in self._terms(plan).items():
            if before.get(name) == value:
                continue
            if name in ("samples", "fingerprint", "classes"):
                raise UserError(
                    f"the data are not those that the folds in {file.parent} were cut from; start a new run"
                )
            raise UserError(
                f"the folds in {file.parent} have {name} {before.get(name)}, and {value} is asked for: restore "
                f"{before.get(name)}, or start a new run"
            )
        self._hold_to_settings(plan, file.parent)

    def _hold_to_settings(self, plan: Plan, folder: Path) -> None:
        """Refuses to train further folds with other settings than those that have been trained so far.

        Raises:
            UserError: the first setting that differs.
        """
        change = next((recorder.change for recorder in self._recorders if recorder.change is not None), None)
        asked = ParentRun.of(folder.parent, plan).config if change is None else dict(change.asked)
        for checkpoint in sorted(folder.glob(f"*/checkpoints/{LAST}")) if asked else []:
            fold = checkpoint.parent.parent
            if (trained := read_config(fold / "config.yaml")) and fold.name.isdecimal():
                check_folds(trained, fold_config(asked, int(fold.name), plan.cut), f"fold {fold.name} of this run")
                return  # the others were held to it when they were trained

    def _monitored(self) -> tuple[str, str]:
        if self.monitor is not None:
            return self.monitor, self.mode
        if self._keeper is not None and self._keeper.monitor is not None:
            return self._keeper.monitor, self._keeper.mode
        return "val/loss", "min"

    def _one_after_another(self, fit: FoldTrainer, pending: Sequence[FoldRun]) -> None:
        for fold in pending:
            fit(fold)
            self._fold_ended(fold)
            if signum := maximum([self._trainer.boundary.stop_signal])[0]:
                raise Interrupted(signum)

    def _several_at_a_time(self, fit: FoldTrainer, pending: Sequence[FoldRun]) -> None:
        """Trains folds in processes that are forked from this one, and so inherit model and data as they are."""
        global _inherited
        failures = []
        with Signals() as signals:
            crew = Crew.prepare(self.n_jobs, None, signals)
            if not crew.forks:
                raise UserError(
                    f"n_jobs is {self.n_jobs}, but this process cannot be forked (GPU or system): set it to 1"
                )
            _inherited = (FoldTrainer(fit.start, fit.combine, fit.outer), list(pending))
            try:
                with crew.pool(len(pending)) as pool:
                    for at, outcome in pool.run([(_fit_inherited, at) for at in range(len(pending))]):
                        if outcome["status"] == "finished":
                            self._fold_ended(pending[at])
                        elif outcome["status"] == "failed":
                            failures.append(_why(pending[at], outcome["error"]))
            finally:
                _inherited = None
        if signals.stop:
            raise Interrupted(signals.stop)
        if failures:
            more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
            raise RunFailed(f"{failures[0]}{more}; the folds that finished are kept")

    def _fold_ended(self, fold: FoldRun | None) -> None:
        """Notes a fold's scores and writes the run's checkpoint, with the weights of the best fold so far."""
        if fold is not None:
            self._bar.end(fold.fold, self._summary.line(fold))
            if self.monitor is not None and (scores := fold.scores) and self.monitor not in scores:
                hint = f"{nearest(self.monitor, scores)}; logged are: {', '.join(scores)}"
                raise UserError(f"monitor '{self.monitor}' is never logged{hint}")
        if self._keeper is None:
            return
        best = self._summary.best_fold()
        checkpoint = best.best if best is not None else None
        due = (
            fold is None or checkpoint != self._best_fold.checkpoint or time.monotonic() - self._saved_at >= MIN_SECONDS
        )
        if not from_rank_0(due):  # whose clock counts: to write is a collective
            return  # it would hold the same weights
        self._best_fold.checkpoint = checkpoint
        self._saved_at = time.monotonic()
        folder = Path(self._trainer.default_root_dir) / "checkpoints"
        self._trainer.save_checkpoint(folder / LAST)
        if self._trainer.is_global_zero and self._best_fold.checkpoint is not None:
            link(folder / LAST, folder / BEST)


_inherited: tuple[FoldTrainer, list[FoldRun]] | None = None  # what forked workers find; a task is only a number


def _fit_inherited(at: int) -> None:
    """What a worker does."""
    assert _inherited is not None
    fit, folds = _inherited
    folds[at].path.mkdir(parents=True, exist_ok=True)
    send_output_to(folds[at].path / "log.txt")
    fit(folds[at])


def _why(fold: FoldRun, error: str) -> str:
    """A worker's failure with its fold, which one that was killed could not record itself."""
    if (fold.path / "run.json").is_file() and fold.run.status == "running":
        fold.run.finish("failed", error=error)
    return error if error.startswith("fold ") else f"fold {fold.fold.number}: {error}"


class BestFold(Callback):
    """Puts the weights of the best fold into the checkpoints of the whole run, so that they are a trained model.

    Attributes:
        checkpoint: that fold's, None before the first fold is finished.
    """

    def __init__(self) -> None:
        self.checkpoint: Path | None = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Takes over weights, hyper-parameters and the state of the data module, but nothing of the training."""
        if self.checkpoint is not None:
            found = load(self.checkpoint)
            if trainer.is_global_zero:
                for training in trainings_of(found, self.checkpoint.parent):
                    training.save(Path(trainer.default_root_dir) / "checkpoints")
            checkpoint.update({key: value for key, value in found.items() if key not in _OF_THE_TRAINING})


_OF_THE_TRAINING = (
    *("epoch", "global_step", "loops", "callbacks", "optimizer_states", "lr_schedulers", "plcourse"),
    *("current_model_state", "averaging_state"),  # of Lightning's WeightAveraging
)
