"""The evaluation loops of a cross-validated run: its folds one by one, and their ensemble.

``validate`` scores each fold's model on the samples it has never seen and reports the means, which recomputes the
estimate of the fit. ``test`` scores each fold's model on the test part, then their ensemble, whose scores are those of
the run. ``predict`` writes the ensemble's predictions. Each model gets the samples as the data module of its fold
prepares them, with everything that was fitted inside the fold, such as a normalization.

    plcourse test --run kfold/classifier
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import pytorch_lightning as pl

from plcourse.console import say
from plcourse.errors import UserError
from plcourse.kfold.fold_run import FoldRun
from plcourse.kfold.fold_trainer import FitTemplate, Scored, evaluate
from plcourse.kfold.folds import Cut, Fold, check_splittable, plan_folds
from plcourse.kfold.outputs import AveragedOutputs, Combine
from plcourse.kfold.resume import PLAN
from plcourse.runs.record import read_record
from plcourse.training.callbacks import Coverage
from plcourse.training.loops import PredictLoop, TestLoop, ValidationLoop
from plcourse.training.trainer import Trainer
from plcourse.training.typed_trainer import TypedTrainer


class _FoldModels:
    """The trained models of a run's folds: the common base of the three loops."""

    scores_folds = True
    trainer: TypedTrainer
    combine: Combine | None = None

    @contextmanager
    def whole_run(self, model: pl.LightningModule) -> Iterator[None]:
        """Copies the model before the trainer touches it, and finds the folds of the run."""
        assert isinstance(self.trainer, Trainer)
        self.template = FitTemplate.of(self.trainer, model)
        self.folder = Path(self.trainer.default_root_dir) / "folds"
        if not (self.folder / PLAN).is_file():
            raise UserError(f"{self.folder} has no folds; fit with KFoldLoop first, then use --run RUN")
        self.plan = read_record(self.folder / PLAN)
        yield

    def finished(self) -> list[FoldRun]:
        """The finished folds that have a checkpoint, split as in the fit; a UserError if the data have changed."""
        check_splittable(self.template.data)
        plan = plan_folds(self.template.data, **{name: self.plan[name] for name in Cut.__annotations__})
        if plan.fingerprint != self.plan["fingerprint"]:
            raise UserError(f"the data differ from those that the folds in {self.folder} were cut from")
        return self.with_checkpoints(plan.folds)

    def with_checkpoints(self, folds: list[Fold]) -> list[FoldRun]:
        """The finished ones among the folds; a UserError if there are none."""
        runs = [FoldRun(fold, self.folder / str(fold.number)) for fold in folds]
        found = [run for run in runs if run.is_finished and run.best is not None]
        if not found:
            raise UserError(f"no fold in {self.folder} is finished and has a checkpoint")
        return found

    def scored(self, verb: str, fold: FoldRun, data: Any) -> Scored:
        """The result of a fold's model, which is also written into the fold's folder."""
        scored = evaluate(self.template, verb, data, fold)
        if verb != "predict" and self.trainer.is_global_zero:
            stage = {"validate": "val", "test": "test"}[verb]
            scored.save(fold, stage, self.trainer.world_size, self.template.variant)
        return scored

    def average(self) -> AveragedOutputs:
        """An empty average of the folds' outputs."""
        return AveragedOutputs(self.combine or ("logits" if self.plan["classes"] else "values"))

    @contextmanager
    def playing(self, average: AveragedOutputs) -> Iterator[None]:
        """Replaces the model's ``forward`` by the average, from which its own steps make metrics and predictions."""
        self.trainer.callbacks.append(average)
        try:
            yield
        finally:
            self.trainer.callbacks.remove(average)


class KFoldValidationLoop(_FoldModels, ValidationLoop):
    """Recomputes the folds' scores on their held-out samples; slot ``trainer.validate_loop``.

    The scores of the run are the means over its folds, as in its summary; the scores of each fold go into its folder.
    Inside a fit it is an ordinary validation loop.

    Args:
        trainer: the trainer that runs the loop.
    """

    def run(self) -> list[Any]:
        """Scores fold after fold."""
        if self.trainer.state.fn != "validate":
            return super().run()
        found = [self.scored("validate", fold, fold.split(self.template.data)) for fold in self.finished()]
        for callback in self.trainer.callbacks:
            if isinstance(callback, Coverage):
                callback.report = _sum([each.coverage for each in found])
        say(f"means over {len(found)} folds, each scored on its held-out samples")
        names = [name for name in found[0].metrics if all(name in each.metrics for each in found)]
        return [{name: fmean(float(each.metrics[name]) for each in found) for name in names}]


class KFoldTestLoop(_FoldModels, TestLoop):
    """Scores the ensemble of the folds on the test part, and each fold alone; slot ``trainer.test_loop``.

    Args:
        trainer: the trainer that runs the loop.
        combine: ``logits`` for models whose ``forward`` returns class scores, ``values`` to average its outputs
            themselves; None decides by the labels.
    """

    def __init__(self, trainer: pl.Trainer, combine: Combine | None = None) -> None:
        super().__init__(trainer)
        self.combine = combine

    def run(self) -> list[Any]:
        """Scores fold after fold, then the average of their outputs."""
        average, singles = self.average(), []
        for fold in self.finished():
            scored = self.scored("test", fold, fold.split(self.template.data))
            average.add(scored.recording)
            singles.append(scored.metrics)
        with self.playing(average):
            results = super().run()
        say(f"scores of the ensemble of {len(singles)} folds; {_ranges(singles)}")
        return results


class KFoldPredictLoop(_FoldModels, PredictLoop):
    """Predicts with the ensemble of the folds; slot ``trainer.predict_loop``.

    If the data module overrides ``load_state_dict``, everything that was fitted to the data is expected in its state.
    New samples are then predicted without the training data.

    Args:
        trainer: the trainer that runs the loop.
        combine: as in `KFoldTestLoop`.
    """

    def __init__(self, trainer: pl.Trainer, combine: Combine | None = None) -> None:
        super().__init__(trainer)
        self.combine = combine

    def run(self) -> list[Any] | None:
        """Predicts with fold after fold, then plays back the average of their outputs."""
        average = self.average()
        for fold, data in self._folds_with_data():
            average.add(self.scored("predict", fold, data).recording)
        with self.playing(average):
            return super().run()

    def _folds_with_data(self) -> Iterator[tuple[FoldRun, Any]]:
        data = self.template.data
        if type(data).load_state_dict is pl.LightningDataModule.load_state_dict:
            yield from ((fold, fold.split(data)) for fold in self.finished())
            return
        own, n_splits = data.state_dict(), self.plan["n_splits"]
        folds = [Fold(number, number // n_splits, [], []) for number in range(n_splits * self.plan["n_repeats"])]
        for fold in self.with_checkpoints(folds):
            yield fold, data  # the evaluation restores its state from the fold's checkpoint
        data.trainer = self.trainer
        data.load_state_dict(own)


def _sum(reports: list[dict[str, int] | None]) -> dict[str, int] | None:
    """The sum of the folds' coverage; None if that of any fold is unknown."""
    known = [report for report in reports if report is not None]
    return {key: sum(report[key] for report in known) for key in known[0]} if len(known) == len(reports) else None


def _ranges(scores: list[dict[str, float]]) -> str:
    """The range of each score over the single folds."""
    ranges = {name: [float(each[name]) for each in scores if name in each] for name in scores[0]}
    return "single folds score " + ", ".join(f"{name} {min(v):.4g} to {max(v):.4g}" for name, v in ranges.items())
