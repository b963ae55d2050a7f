"""The evaluation loops of a cross-validated run: its folds one by one, and their ensemble.

``validate`` scores each fold's model on the samples that it never saw and reports the means, so that it recomputes the
estimate of the fit. ``test`` scores each fold's model on the held-out test part, then their ensemble, which is the
run's own score; ``predict`` writes the ensemble's predictions. Each model sees the samples as its own data module
prepares them: what was fitted inside the fold, such as a normalisation, comes with it.

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
from plcourse.kfold.fold_trainer import FitTemplate, FoldRun, Scored, evaluate
from plcourse.kfold.folds import CUT, Fold, Plan, check_splittable, plan_folds
from plcourse.kfold.outputs import Combine, Ensemble
from plcourse.runs.record import read_record
from plcourse.training.callbacks import Coverage
from plcourse.training.loops import PredictLoop, TestLoop, ValidationLoop
from plcourse.training.trainer import Trainer


class _Members:
    """The trained models of a run's folds, for one evaluation.

    Args:
        trainer: the trainer of the evaluation; its root is the run's folder.
        model: the model, before the trainer touched it.
        combine: how outputs are averaged; None as the folds' labels tell.
    """

    def __init__(self, trainer: pl.Trainer, model: pl.LightningModule, combine: Combine | None) -> None:
        assert isinstance(trainer, Trainer)
        self.trainer = trainer
        self.start = FitTemplate.of(trainer, model)
        self.folder = Path(trainer.default_root_dir) / "folds"
        plan = self.folder / "plan.json"
        if not plan.is_file():
            raise UserError(f"there are no folds in {self.folder}: fit with KFoldLoop first, then --run RUN")
        self.terms = read_record(plan)
        self.combine: Combine = combine or ("logits" if self.terms["classes"] else "values")

    def plan(self) -> Plan:
        """The folds as the fit cut them.

        Raises:
            UserError: the data are others now.
        """
        check_splittable(self.start.data)
        plan = plan_folds(self.start.data, **{name: self.terms[name] for name in CUT})
        if plan.terms["fingerprint"] != self.terms["fingerprint"]:
            raise UserError(f"the data are not those that the folds in {self.folder} were cut from")
        return plan

    def finished(self) -> list[FoldRun]:
        """The folds that are trained and have a checkpoint.

        Raises:
            UserError: there is none.
        """
        return self._finished(self.plan().folds)

    def without_samples(self) -> list[FoldRun]:
        """The same, for predictions that need none of the folds' samples."""
        count, n_splits = self.terms["n_splits"] * self.terms["n_repeats"], self.terms["n_splits"]
        return self._finished([Fold(number, number // n_splits, [], []) for number in range(count)])

    def _finished(self, folds: list[Fold]) -> list[FoldRun]:
        found = [FoldRun(fold, self.folder / str(fold.number)) for fold in folds]
        found = [fold for fold in found if fold.is_finished and fold.best is not None]
        if not found:
            raise UserError(f"none of the folds in {self.folder} is finished and has a checkpoint")
        return found

    def score(self, verb: str, fold: FoldRun, data: Any) -> Scored:
        """Scores one fold's model, and writes what it scored into its folder."""
        found = evaluate(self.start, verb, data, fold.path, fold.best, None)
        if verb != "predict" and self.trainer.is_global_zero:
            fold.save({"validate": "val", "test": "test"}[verb], found, self.trainer.world_size, self.trainer.variant)
        return found


class KFoldValidationLoop(ValidationLoop):
    """Recomputes the folds' scores on the samples held out; slot ``trainer.validate_loop``.

    The scores of the run are the means over its folds, as its summary has them; each fold's own go into its folder.
    Inside a fit it is an ordinary validation loop.

    Args:
        trainer: the trainer that runs it.
    """

    scores_folds = True

    @contextmanager
    def whole_run(self, model: pl.LightningModule) -> Iterator[None]:
        """Takes the model as it was built."""
        self._members = _Members(self.trainer, model, None)
        yield

    def run(self) -> list[Any]:
        """Scores fold after fold."""
        if self.trainer.state.fn != "validate":
            return super().run()
        members = self._members
        folds = members.finished()
        found = [members.score("validate", fold, fold.split(members.start.data)) for fold in folds]
        for coverage in (each for each in members.trainer.callbacks if isinstance(each, Coverage)):
            coverage.report = _added([each.coverage for each in found])
        say(f"means over {len(folds)} folds, each scored on the samples that it never saw")
        names = [name for name in found[0].metrics if all(name in each.metrics for each in found)]
        return [{name: fmean(float(each.metrics[name]) for each in found) for name in names}]


class KFoldTestLoop(TestLoop):
    """Scores the ensemble of the folds on the test part, and each fold by itself; slot ``trainer.test_loop``.

    Args:
        trainer: the trainer that runs it.
        combine: ``logits`` for models whose ``forward`` returns class scores, ``values`` to average it as it is; None
            decides by the labels.
    """

    scores_folds = True

    def __init__(self, trainer: pl.Trainer, combine: Combine | None = None) -> None:
        super().__init__(trainer)
        self.combine: Combine | None = combine

    @contextmanager
    def whole_run(self, model: pl.LightningModule) -> Iterator[None]:
        """Takes the model as it was built."""
        self._members = _Members(self.trainer, model, self.combine)
        yield

    def run(self) -> list[Any]:
        """Scores fold after fold, then the average of what they answered."""
        members = self._members
        ensemble = Ensemble(members.combine)
        singles: list[dict[str, float]] = []
        for fold in members.finished():
            found = members.score("test", fold, fold.split(members.start.data))
            ensemble.add(found.recording)
            singles.append(found.metrics)
        with _playing(members.trainer, ensemble):
            results = super().run()
        say(f"scores of the ensemble of {len(singles)} folds; {_singles(singles)}")
        return results


class KFoldPredictLoop(PredictLoop):
    """Predicts by the ensemble of the folds; slot ``trainer.predict_loop``.

    A data module with a ``load_state_dict`` is taken to find there all that a fold fitted to its data. Then new samples
    are predicted without the training data.

    Args:
        trainer: the trainer that runs it.
        combine: as in `KFoldTestLoop`.
    """

    scores_folds = True

    def __init__(self, trainer: pl.Trainer, combine: Combine | None = None) -> None:
        super().__init__(trainer)
        self.combine: Combine | None = combine

    @contextmanager
    def whole_run(self, model: pl.LightningModule) -> Iterator[None]:
        """Takes the model as it was built."""
        self._members = _Members(self.trainer, model, self.combine)
        yield

    def run(self) -> list[Any] | None:
        """Predicts with fold after fold, then plays back the average of what they answered."""
        members = self._members
        ensemble = Ensemble(members.combine)
        for fold, data in self._with_data(members):
            ensemble.add(members.score("predict", fold, data).recording)
        with _playing(members.trainer, ensemble):
            return super().run()

    def _with_data(self, members: _Members) -> Iterator[tuple[FoldRun, Any]]:
        data = members.start.data
        if type(data).load_state_dict is pl.LightningDataModule.load_state_dict:
            yield from ((fold, fold.split(data)) for fold in members.finished())
            return
        own = data.state_dict()
        for fold in members.without_samples():
            yield fold, data  # whose state the evaluation takes from the fold's checkpoint
        data.trainer = members.trainer
        data.load_state_dict(own)


@contextmanager
def _playing(trainer: Trainer, ensemble: Ensemble) -> Iterator[None]:
    """Lets an ensemble answer for the model, whose own steps make metrics and predictions of it."""
    trainer.callbacks.append(ensemble)
    try:
        yield
    finally:
        trainer.callbacks.remove(ensemble)


def _added(reports: list[dict[str, int] | None]) -> dict[str, int] | None:
    """What all folds saw together; unknown where one of them is."""
    known = [report for report in reports if report is not None]
    return {key: sum(report[key] for report in known) for key in known[0]} if len(known) == len(reports) else None


def _singles(scores: list[dict[str, float]]) -> str:
    """The range of each score over the single folds."""
    ranges = {name: [float(each[name]) for each in scores if name in each] for name in scores[0]}
    return "alone they score " + ", ".join(f"{name} {min(v):.4g} to {max(v):.4g}" for name, v in ranges.items())
