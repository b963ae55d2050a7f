"""Scores a checkpoint or writes its predictions, with the trainer that a command has built."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from plcourse.console import say
from plcourse.errors import RunFailed, UserError
from plcourse.runs.class_names import short_class_names
from plcourse.runs.evaluations import relative_to_run, save_evaluation
from plcourse.runs.prediction_writer import PredictionWriter
from plcourse.runs.run import Run
from plcourse.runs.variants import hide_newest, show_newest
from plcourse.training.baselines import find_baselines
from plcourse.training.callbacks import Coverage
from plcourse.training.loops import PredictLoop
from plcourse.training.progress import table
from plcourse.training.trainer import Trainer
from plcourse.training.variant import Variant, predictions_folder


@contextmanager
def weights_checked(checkpoint: Path | None, model: pl.LightningModule) -> Iterator[None]:
    """Turns torch's list of weights that do not fit into one line."""
    try:
        yield
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        name = type(model).__name__
        raise UserError(f"{checkpoint} was written by another model than {name} as configured") from error


@dataclass
class Evaluator:
    """Evaluates checkpoints of one run.

    Args:
        run: the run that receives the results.
        trainer: the trainer.
        model: the model, into which the weights of a checkpoint are loaded.
        data: the data module, if there is one.
        config: the config of the command.
        variant: how the evaluation differs from the run as it was trained.
        strict: whether inputs that cannot be read make a prediction fail.
    """

    run: Run
    trainer: Trainer
    model: pl.LightningModule
    data: pl.LightningDataModule | None
    config: dict[str, Any]
    variant: Variant
    strict: bool
    _coverage: Coverage = field(default_factory=Coverage)

    def evaluate(self, verb: str, checkpoint: Path | None) -> None:
        """Carries out validate, test or predict with the weights of a checkpoint; None keeps the model's own."""
        self.trainer.callbacks.append(self._coverage)
        try:
            with weights_checked(checkpoint, self.model):
                if verb == "predict":
                    self._predict(checkpoint)
                else:
                    self._score(verb, checkpoint)
        finally:
            self.trainer.callbacks.remove(self._coverage)

    def _score(self, verb: str, checkpoint: Path | None) -> None:
        trainer, started = self.trainer, time.monotonic()
        run_verb, loop, stage = {
            "test": (trainer.test, trainer.test_loop, "test"),
            "validate": (trainer.validate, trainer.validate_loop, "val"),
        }[verb]
        results = run_verb(self.model, datamodule=self.data, ckpt_path=checkpoint, weights_only=True, verbose=False)
        if not trainer.is_global_zero:
            return
        scores = {name: value for result in results for name, value in result.items()}
        seconds, coverage = time.monotonic() - started, self._coverage.report
        findings, lines = {**loop.findings, **trainer.training_samples.findings}, list(loop.lines)
        complete = coverage is not None and coverage["seen"] == coverage["expected"]
        if stage == "test" and complete and (baselines := find_baselines(self.data, scores)) is not None:
            findings["baselines"], lines = baselines.section(), [*baselines.lines(), *lines]
        report = save_evaluation(
            self.run.path, stage, scores, coverage, checkpoint, trainer.world_size, seconds, findings, self.variant
        )
        seen = "which samples were seen is unknown, since batches carry no ids"
        if coverage:
            seen = f"{coverage['seen']} of {coverage['expected']} seen, {coverage['twice']} twice"
        file = f" ({self.variant.said}; in eval/{self.variant.file_stem(stage)}.json)" if self.variant.settings else ""
        say("\n".join([f"{stage}: {seen}{file}", *table(report["metrics"])]))
        for line in lines:
            say(line)

    def _predict(self, checkpoint: Path | None) -> None:
        run, trainer, loop, name = self.run, self.trainer, self.trainer.predict_loop, self.variant.name
        assert isinstance(loop, PredictLoop)
        if not name and trainer.is_global_zero:
            hide_newest(run.path)
        loop.settings = _prediction_settings(self.config)
        loop.facts = {
            "settings": dict(self.variant.settings),
            "trust": list(self.variant.trust),
            "checkpoint": relative_to_run(checkpoint, run.path),
            "inputs": short_class_names(self.config.get("data")),
        }
        writer = None
        if not loop.writes_predictions:
            writer = PredictionWriter(predictions_folder(run.path, name), facts=loop.facts)
            trainer.callbacks.append(writer)
        trainer.predict(
            self.model, datamodule=self.data, ckpt_path=checkpoint, weights_only=True, return_predictions=False
        )
        if writer is not None:
            trainer.callbacks.remove(writer)
            if trainer.is_global_zero:
                say(f"predictions in {writer.folder}: {writer.said}")
        if name and trainer.is_global_zero:
            show_newest(run.path, name)
        if self.strict and loop.quarantined:
            raise RunFailed(f"--strict: inputs that could not be read: {loop.quarantined}")


def _prediction_settings(config: dict[str, Any]) -> str:
    """The parts of a config that determine a prediction: model, data and seed, as JSON."""
    parts = {key: short_class_names(config.get(key)) for key in ("model", "data", "seed_everything") if key in config}
    return json.dumps(parts, sort_keys=True, default=str)
