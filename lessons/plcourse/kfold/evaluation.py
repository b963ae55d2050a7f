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
from plcourse.kfold.folds import CUT, Fold, check_splittable, plan_folds
from plcourse.kfold.outputs import AveragedOutputs, Combine
from plcourse.kfold.resume import PLAN
from plcourse.runs.record import read_record
from plcourse.training.callbacks import Coverage
from plcourse.training.loops import PredictLoop, TestLoop, ValidationLoop
from plcourse.training.trainer import Trainer
from plcourse.training.typed_trainer import TypedTrainer


class _FoldModels:
    """The trained models of a run's folds, for one evaluation with ``trainer``, whose root is the run's folder."""

    def __init__(self, trainer: pl.Trainer, model: pl.LightningModule, combine: Combine | None) -> None:
        assert isinstance(trainer, Trainer)
        self.trainer = trainer
        self.template = FitTemplate.of(trainer, model)
        self.folder = Path(trainer.default_root_dir) / "folds"
        if not (self.folder / PLAN).is_file():
            raise UserError(f"{self.folder} has no folds; fit with KFoldLoop first, then use --run RUN")
        self.terms = read_record(self.folder / PLAN)
        self.combine: Combine = combine or ("logits" if self.terms["classes"] else "values")

    def finished(self) -> list[FoldRun]:
        """The finished folds that have a checkpoint, split as in the fit; a UserError if the data have changed."""
        check_splittable(self.template.data)
        plan = plan_folds(self.template.data, **{name: self.terms[name] for name in CUT})
        if plan.terms["fingerprint"] != self.terms["fingerprint"]:
            raise UserError(f"the data differ from those that the folds in {self.folder} were cut from")
        return self._finished(plan.folds)

    def without_samples(self) -> list[FoldRun]:
        """The same without the folds' samples, for predictions that do not need them."""
        count, n_splits = self.terms["n_splits"] * self.terms["n_repeats"], self.terms["n_splits"]
        return self._finished([Fold(number, number // n_splits, [], []) for number in range(count)])

    def _finished(self, folds: list[Fold]) -> list[FoldRun]:
        runs = [FoldRun(fold, self.folder / str(fold.number)) for fold in folds]
        found = [run for run in runs if run.is_finished and run.best is not None]
        if not found:
            raise UserError(f"no fold in {self.folder} is finished and has a checkpoint")
        return found

    def score(self, verb: str, fold: FoldRun, data: Any) -> Scored:
        """Scores one fold's model and writes the scores into its folder."""
        scored = evaluate(self.template, verb, data, fold.path, fold.best, None)
        if verb != "predict" and self.trainer.is_global_zero:
            scored.save(fold, {"validate": "val", "test": "test"}[verb], self.trainer.world_size, self.trainer.variant)
        return scored


class _FoldLoop:
    """The common part of the three loops, which need the model as it was built."""

    scores_folds = True
    trainer: TypedTrainer
    combine: Combine | None = None

    @contextmanager
    def whole_run(self, model: pl.LightningModule) -> Iterator[None]:
        """Copies the model before the trainer touches it."""
        self._models = _FoldModels(self.trainer, model, self.combine)
        yield


class KFoldValidationLoop(_FoldLoop, ValidationLoop):
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
        models = self._models
        folds = models.finished()
        found = [models.score("validate", fold, fold.split(models.template.data)) for fold in folds]
        for coverage in (each for each in models.trainer.callbacks if isinstance(each, Coverage)):
            coverage.report = _added([each.coverage for each in found])
        say(f"means over {len(folds)} folds, each scored on its held-out samples")
        names = [name for name in found[0].metrics if all(name in each.metrics for each in found)]
        return [{name: fmean(float(each.metrics[name]) for each in found) for name in names}]


class KFoldTestLoop(_FoldLoop, TestLoop):
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
        models = self._models
        average = AveragedOutputs(models.combine)
        singles: list[dict[str, float]] = []
        for fold in models.finished():
            scored = models.score("test", fold, fold.split(models.template.data))
            average.add(scored.recording)
            singles.append(scored.metrics)
        with _playing(models.trainer, average):
            results = super().run()
        say(f"scores of the ensemble of {len(singles)} folds; {_singles(singles)}")
        return results


class KFoldPredictLoop(_FoldLoop, PredictLoop):
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
        models = self._models
        average = AveragedOutputs(models.combine)
        for fold, data in self._with_data(models):
            average.add(models.score("predict", fold, data).recording)
        with _playing(models.trainer, average):
            return super().run()

    def _with_data(self, models: _FoldModels) -> Iterator[tuple[FoldRun, Any]]:
        data = models.template.data
        if type(data).load_state_dict is pl.LightningDataModule.load_state_dict:
            yield from ((fold, fold.split(data)) for fold in models.finished())
            return
        own = data.state_dict()
        for fold in models.without_samples():
            yield fold, data  # the evaluation restores its state from the fold's checkpoint
        data.trainer = models.trainer
        data.load_state_dict(own)


@contextmanager
def _playing(trainer: Trainer, average: AveragedOutputs) -> Iterator[None]:
    """Replaces the model's ``forward`` by the playback, from which its own steps make metrics and predictions."""
    trainer.callbacks.append(average)
    try:
        yield
    finally:
        trainer.callbacks.remove(average)


def _added(reports: list[dict[str, int] | None]) -> dict[str, int] | None:
    """The sum of the folds' coverage; None if that of any fold is unknown."""
    known = [report for report in reports if report is not None]
    return {key: sum(report[key] for report in known) for key in known[0]} if len(known) == len(reports) else None


def _singles(scores: list[dict[str, float]]) -> str:
    """The range of each score over the single folds."""
    ranges = {name: [float(each[name]) for each in scores if name in each] for name in scores[0]}
    return "single folds score " + ", ".join(f"{name} {min(v):.4g} to {max(v):.4g}" for name, v in ranges.items())
