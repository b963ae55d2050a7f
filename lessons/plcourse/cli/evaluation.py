"""Scores a checkpoint or writes its predictions, with the trainer that a command has built."""

import json
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_helpers import is_overridden

from plcourse.console import say
from plcourse.errors import RunFailed, UserError, first_line
from plcourse.runs.config_yaml import short_class_names
from plcourse.runs.prediction_writer import PredictionWriter
from plcourse.runs.recorder import save_evaluation
from plcourse.runs.references import relative_to_run
from plcourse.runs.run import Run
from plcourse.runs.variants import hide_newest, show_newest
from plcourse.training.baselines import find_baselines
from plcourse.training.callbacks import Coverage
from plcourse.training.loops import PredictLoop
from plcourse.training.progress import table
from plcourse.training.trainer import Trainer
from plcourse.training.variant import predictions_folder


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


@contextmanager
def _default_step_explained(model: pl.LightningModule) -> Iterator[None]:
    """Explains an error of the predict_step that a model without one inherits: it calls ``forward`` with the batch."""
    try:
        yield
    except Exception as error:
        called = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
        if isinstance(error, UserError) or is_overridden("predict_step", model) or "predict_step" not in called:
            raise
        raise RunFailed(
            f"{type(model).__name__} has no predict_step, so forward gets the whole batch, which fails with "
            f"{type(error).__name__}: {first_line(error)}; define a predict_step that takes the inputs from the batch"
        ) from error


def score(
    verb: str,
    run: Run,
    trainer: Trainer,
    model: pl.LightningModule,
    data: pl.LightningDataModule | None,
    checkpoint: Path | None,
) -> None:
    """Carries out validate or test with the weights of a checkpoint, and writes and prints the scores.

    Without a checkpoint the model keeps its weights. The trainer's ``variant`` says how the evaluation differs from the
    run as it was trained.
    """
    run_verb, loop, stage = {
        "test": (trainer.test, trainer.test_loop, "test"),
        "validate": (trainer.validate, trainer.validate_loop, "val"),
    }[verb]
    counter, started = Coverage(), time.monotonic()
    trainer.callbacks.append(counter)
    try:
        with weights_checked(checkpoint, model):
            results = run_verb(model, datamodule=data, ckpt_path=checkpoint, weights_only=True, verbose=False)
    finally:
        trainer.callbacks.remove(counter)
    if not trainer.is_global_zero:
        return
    scores = {name: value for result in results for name, value in result.items()}
    seconds, coverage, variant = time.monotonic() - started, counter.report, trainer.variant
    findings, lines = {**loop.findings, **trainer.training_samples.findings}, list(loop.lines)
    complete = coverage is not None and coverage["seen"] == coverage["expected"]
    if stage == "test" and complete and (baselines := find_baselines(data, scores)) is not None:
        findings["baselines"], lines = baselines.section(), [*baselines.lines(), *lines]
    report = save_evaluation(
        run.path, stage, scores, coverage, checkpoint, trainer.world_size, seconds, findings, variant
    )
    seen = "which samples were seen is unknown, since batches carry no ids"
    if coverage:
        seen = f"{coverage['seen']} of {coverage['expected']} seen, {coverage['twice']} twice"
    file = f" ({variant.said}; in eval/{variant.file_stem(stage)}.json)" if variant.settings else ""
    say("\n".join([f"{stage}: {seen}{file}", *table(report["metrics"])]))
    for line in lines:
        say(line)


def predict(
    run: Run,
    trainer: Trainer,
    model: pl.LightningModule,
    data: pl.LightningDataModule | None,
    checkpoint: Path | None,
    config: Mapping[str, object],
    strict: bool,
) -> None:
    """Carries out predict with the weights of a checkpoint, if there is one; `config` is that of the command.

    Raises:
        RunFailed: some inputs cannot be read, and ``strict`` is set.
    """
    loop, variant = trainer.predict_loop, trainer.variant
    assert isinstance(loop, PredictLoop)
    if not variant.name and trainer.is_global_zero:
        hide_newest(run.path)
    inputs = {key: short_class_names(config[key]) for key in ("model", "data", "seed_everything") if key in config}
    loop.settings = json.dumps(inputs, sort_keys=True, default=str)  # what determines a prediction
    loop.facts = {
        "settings": dict(variant.settings),
        "trust": list(variant.trust),
        "checkpoint": checkpoint and relative_to_run(checkpoint, run.path),
        "inputs": inputs.get("data"),
    }
    writer = PredictionWriter(predictions_folder(run.path, variant.name), facts=loop.facts)
    if not loop.writes_predictions:
        trainer.callbacks.append(writer)
    with weights_checked(checkpoint, model), _default_step_explained(model):
        trainer.predict(model, datamodule=data, ckpt_path=checkpoint, weights_only=True, return_predictions=False)
    if not loop.writes_predictions:
        trainer.callbacks.remove(writer)
        say(f"predictions in {writer.folder}: {writer.said}")
    if variant.name and trainer.is_global_zero:
        show_newest(run.path, variant.name)
    if strict and loop.quarantined:
        raise RunFailed(f"--strict: inputs that could not be read: {loop.quarantined}")
