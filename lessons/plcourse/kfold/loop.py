"""Lesson 14: cross-validation as the fit loop of one run.

The idea: `trainer.fit` runs whatever loop is in the slot ``trainer.fit_loop``. This loop does not train the model it is
given but uses it as a template. For every fold it builds a trainer like the one it runs in, copies the untouched model
and callbacks, splits the data module, and lets the new trainer fit into ``folds/<k>/``. Since nothing is reused, a fold
is bit for bit the fit that one would have run on that fold alone; `FoldTrainer` does it.

    plcourse fit -c kfold/classifier --then validate,test,predict

The estimate is the mean over the folds (Stone 1974, JRSS B 36:111). Its interval is corrected for the training samples
that the folds share (Nadeau and Bengio 2003, Machine Learning 52:239).
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar

from plcourse.console import say
from plcourse.errors import Interrupted, UserError, nearest
from plcourse.files import write_json
from plcourse.kfold.bar import FoldBar
from plcourse.kfold.best_fold import BestFold
from plcourse.kfold.evaluation import KFoldPredictLoop, KFoldTestLoop, KFoldValidationLoop
from plcourse.kfold.fold_run import FoldRun, ParentRun
from plcourse.kfold.fold_trainer import FitTemplate, FoldTrainer
from plcourse.kfold.folds import Plan, check_splittable, plan_folds
from plcourse.kfold.outputs import Combine
from plcourse.kfold.parallel import train_in_parallel
from plcourse.kfold.resume import PLAN, check_unchanged, plan_terms
from plcourse.kfold.summary import Summary
from plcourse.processes.collectives import from_rank_0, gather_objects, maximum
from plcourse.runs.recorder import RunRecorder
from plcourse.training.loops import FitLoop
from plcourse.training.trainer import Trainer


class KFoldLoop(FitLoop):
    """Cross-validates the model of a run; slot ``trainer.fit_loop``.

    It also fills the empty evaluation slots: ``validate`` scores each fold on its held-out samples, ``test`` and
    ``predict`` use the ensemble of the folds.

    Args:
        trainer: the trainer that runs the loop.
        n_splits: folds per repeat, 2 or more.
        n_repeats: number of repeats, each with new folds, 1 or more.
        stratified: whether each fold has the class proportions of the whole; None for yes if the labels are classes.
        groups: whether the samples of a group stay together; None for yes if the data have groups.
        folds: the numbers of the folds to run, 0 to n_splits * n_repeats - 1; None for all.
        n_jobs: number of folds that run in parallel, each in its own process.
        random_state: fixes the folds, as in scikit-learn; the run's seed fixes everything else.
        monitor: the score by which folds are compared, such as ``val/accuracy``; None for that of `RunCheckpoint`, or
            ``val/loss``.
        mode: whether a larger (``max``) or a smaller (``min``) ``monitor`` is better.
        combine: how outputs of the model become predictions: ``logits`` by a softmax, ``values`` unchanged; None
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

    def run(self) -> None:
        """Trains and scores the unfinished folds, then summarizes all of them."""
        trainer, data = self._trainer, self._template.data
        plan = plan_folds(data, self.n_splits, self.n_repeats, self.stratified, self.groups, self.random_state)
        folds = [FoldRun(fold, self._folder / "folds" / str(fold.number)) for fold in plan.chosen(self.folds)]
        pending = self._begin(plan, folds)
        seconds = self._template.divide_time(math.ceil(len(folds) / self.n_jobs))
        if seconds is not None and trainer.is_global_zero:
            say(f"the time limit is that of the whole run: each fold trains for at most {seconds:.3g} s")
        parent = ParentRun.of(self._folder, plan)
        fit = FoldTrainer(self._template, self.combine or plan.combine, parent, trainer.is_global_zero, [self._bar])
        if self.n_jobs == 1:
            for fold in pending:
                fit(fold)
                self._fold_ended(fold)
                if signum := maximum([trainer.safe_point.stop_signal])[0]:
                    raise Interrupted(signum)
        elif pending:
            train_in_parallel(fit, pending, self.n_jobs, self._fold_ended)
        self._end()

    @contextmanager
    def whole_run(self, model: pl.LightningModule) -> Iterator[None]:
        """Copies what the folds start from, and hides from the run's own trainer the callbacks that belong to folds."""
        trainer = self._trainer
        check_splittable(trainer.datamodule)
        self._template, self._folder = FitTemplate.of(trainer, model), Path(trainer.default_root_dir)
        self._best_fold = BestFold(trainer)
        kept, sanity = trainer.callbacks, trainer.num_sanity_val_steps
        self._recorders = [callback for callback in kept if isinstance(callback, RunRecorder)]
        self._bar = FoldBar(any(isinstance(callback, ProgressBar) for callback in kept) and trainer.is_global_zero)
        trainer.callbacks, trainer.num_sanity_val_steps = [*self._recorders, self._best_fold], 0
        try:
            yield
        finally:
            self._bar.close()
            trainer.callbacks, trainer.num_sanity_val_steps = kept, sanity

    def _begin(self, plan: Plan, folds: list[FoldRun]) -> list[FoldRun]:
        """Records the plan and returns the folds that are still to be trained; a UserError if the run has changed."""
        trainer, file = self._trainer, self._folder / "folds" / PLAN
        if self.n_jobs > 1 and trainer.world_size > 1:
            raise UserError(
                f"n_jobs is {self.n_jobs} in a run of {trainer.world_size} processes; these share each fold, so n_jobs "
                "must be 1"
            )
        if file.is_file():
            change = next((recorder.change for recorder in self._recorders if recorder.change is not None), None)
            check_unchanged(self._folder, plan, trainer, None if change is None else dict(change.asked))
        elif self._restored:
            raise UserError("a cross-validation must be continued in its own folder: --run RUN --ckpt_path last")
        finished = from_rank_0([fold.fold.number for fold in folds if fold.is_finished])
        pending = [fold for fold in folds if fold.fold.number not in finished]
        gather_objects(None)  # every rank must read the plan before rank 0 writes it
        if trainer.is_global_zero:
            file.parent.mkdir(exist_ok=True)
            write_json(file, plan_terms(plan, trainer))
        for recorder in self._recorders:
            recorder.on_train_start(trainer, trainer.lightning_module)
        self._summary = Summary(plan, folds, *self._monitored())
        self._bar.open(folds, pending)
        self._best_fold.save(trainer, self._summary.best_fold())
        return pending

    def _fold_ended(self, fold: FoldRun) -> None:
        self._bar.end(fold.fold, self._summary.line(fold))
        if self.monitor is not None and (scores := fold.scores) and self.monitor not in scores:
            hint = f"{nearest(self.monitor, scores)}; logged metrics: {', '.join(scores)}"
            raise UserError(f"monitor '{self.monitor}' is never logged{hint}")
        self._best_fold.save(self._trainer, self._summary.best_fold())

    def _end(self) -> None:
        trainer = self._trainer
        self._bar.close()
        for recorder in self._recorders:
            recorder.on_train_end(trainer, trainer.lightning_module)
        if trainer.is_global_zero:
            self._summary.conclude(self._folder, trainer.loggers)

    def _monitored(self) -> tuple[str, str]:
        keeper = self._best_fold.keeper
        if self.monitor is None and keeper is not None and keeper.monitor is not None:
            return keeper.monitor, keeper.mode
        return ("val/loss", "min") if self.monitor is None else (self.monitor, self.mode)

    def on_save_checkpoint(self) -> dict[str, Any]:
        """Marks the checkpoint as one of a cross-validation; the folds have their own checkpoints."""
        return {"kfold": True}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        """Refuses a checkpoint of any other run."""
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
