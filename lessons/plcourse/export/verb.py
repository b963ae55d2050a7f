"""Runs `plcourse export` and `plcourse benchmark latency` once the model, data and trainer exist."""

from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch

from plcourse.console import say
from plcourse.errors import RunFailed, UserError
from plcourse.export import formats
from plcourse.export import latency as racing
from plcourse.export.artifacts import Artifacts, digest
from plcourse.export.card import Source
from plcourse.export.certificate import Row, table
from plcourse.export.graph import Bridge, Program
from plcourse.export.runners import Runner
from plcourse.export.samples import RawSamples, Samples
from plcourse.export.scoring import RawAnswers, masks_in_raw_size
from plcourse.export.verify import Reference, verify
from plcourse.export.worker import TIMED_SECONDS, Worker, percentiles, timed
from plcourse.files import write_json
from plcourse.runs.environment import environment
from plcourse.runs.export_request import ExportRequest
from plcourse.runs.recorder import shortest
from plcourse.runs.run import Run
from plcourse.runs.signatures import trusting
from plcourse.training.callbacks import Coverage
from plcourse.training.exportable import RawMasks, as_exportable, standing_in
from plcourse.training.trainer import Trainer

CALIBRATION_BATCHES = 8
_DEPRECATED = "TorchScript is deprecated since torch 2.11 and gets no new features; for new work choose torch_export"


class Job(NamedTuple):
    """What is exported or timed, and how.

    Without a checkpoint the module keeps its weights. The trainer scores it, and whatever replaces its ``forward``.
    """

    run: Run
    trainer: Trainer
    module: pl.LightningModule
    datamodule: pl.LightningDataModule
    checkpoint: Path | None
    request: ExportRequest


def export(job: Job) -> None:
    """Writes and verifies every requested format, prints the table and writes ``verification.json``.

    Raises:
        UserError: see `Exporter`.
        RunFailed: a format could not be written or failed a check; the other formats exist.
    """
    exporter, request = Exporter(job), job.request
    reference, threads = exporter.reference(), torch.get_num_threads()
    eager = exporter.eager_row(reference)
    rows: list[Row] = []
    if any(name.startswith("torchscript") for name in request.formats):
        say(_DEPRECATED)
    for name in request.formats:
        say(f"export: {name} ...")
        try:
            exporter.write(name)
            rows.append(exporter.verify(name, reference, threads))
        except UserError as error:
            rows.append({"format": name, "status": "not exported", "failed": [str(error)]})
    exporter.artifacts.certify([eager, *rows])
    seen = exporter.coverage.report
    on = "the test split" if seen is None else f"{seen['seen']} of {seen['expected']}"
    scored = f", {', '.join(reference.metrics)} on {on}" if reference.metrics else ""
    say(f"{len(exporter.samples.ids)} test samples compared{scored}; {threads} thread(s), one process per runtime")
    say("\n".join(table([eager, *rows], request.batch_sizes)))
    for row in rows:
        if row["status"] != "verified":
            raise RunFailed(f"{row['format']} is {row['status']}: {row.get('failed', [''])[0]}")
    say(f"verified: {exporter.artifacts.folder}")


def latency(job: Job) -> None:
    """Times every verified format against the trained model, recommends one, and writes ``latency.json``.

    Raises:
        UserError: nothing was exported and verified from this checkpoint.
    """
    artifacts, checkpoint = Artifacts(job.run), job.checkpoint
    cards, left_out = racing.candidates(artifacts, digest(checkpoint) if checkpoint else None, job.request.formats)
    card = next(iter(cards.values()))
    request = replace(job.request, preprocess=card.preprocess, probabilities=card.probabilities)
    exporter = Exporter(job._replace(request=request))
    threads = torch.get_num_threads()
    with ExitStack() as stack:
        clocks: dict[str, racing.Clock] = {racing.EAGER: partial(timed, exporter.program.eager)}
        for name in cards:
            clocks[name] = stack.enter_context(Worker(job.run, name, threads)).time
        inputs = {size: exporter.samples.batch(0, size).inputs for size in request.batch_sizes}
        results = racing.race(clocks, inputs, request.rounds)
    hardware = environment()["hardware"]
    write_json(
        artifacts.folder / "latency.json",
        {"threads": threads, "rounds": request.rounds, "batches": results, "left_out": left_out, "hardware": hardware},
    )
    say(f"{request.rounds} interleaved rounds, {threads} thread(s), one process per runtime")
    say("\n".join(racing.lines(results, left_out)))


class Exporter:
    """A trained module and its data, scored and ready to be exported into the run's folder.

    Raises:
        UserError: the checkpoint belongs to another model, or the module cannot be exported as requested.
    """

    def __init__(self, job: Job) -> None:
        self.run, self.trainer, self.module, self.datamodule, checkpoint, self.request = job
        self.coverage, self.artifacts = Coverage(), Artifacts(self.run)
        self.trained = self.score(checkpoint)
        exportable = as_exportable(self.module, next(iter(self.datamodule.test_dataloader())))
        flags = (self.request.preprocess, self.request.probabilities)
        self.program = Program(self.module, exportable, self.datamodule.state_dict(), *flags, self.datamodule)
        self.samples = Samples.of(self.program, self.datamodule.test_dataloader())
        self.scores_masks = any(self.program.in_raw_size) and isinstance(self.datamodule, RawMasks)
        self.source: Source = {
            "run": self.run.name,
            "checkpoint": checkpoint.name if checkpoint else None,
            "sha256": digest(checkpoint) if checkpoint else None,
            "trained_on": [training.digest for training in self.trainer.training_samples.trainings],
        }

    def reference(self) -> Reference:
        """Returns what exported files are compared with.

        Raises:
            UserError: the test does not log a metric of the module's signature.
        """
        signature = self.program.signature
        trained = self.score_raw() if self.scores_masks else self.trained
        if missing := [name for name in signature.metrics if name not in trained]:
            known = ", ".join(trained)
            raise UserError(f"the export is verified by '{missing[0]}', but the test logs only {known}")
        raw = RawSamples.of(self.program, self.datamodule)
        smaller = self.samples.first(8).halved(self.program) if raw is None else None  # raw images have several sizes
        return Reference(self.samples, trained, signature.metrics, signature.mode, smaller, raw)

    def eager_row(self, reference: Reference) -> Row:
        """Times the trained model, run by torch in this process, which loads no other runtime."""
        batches = {}
        for size in self.request.batch_sizes:
            calls = timed(self.program.eager, self.samples.batch(0, size).inputs, TIMED_SECONDS)
            batches[str(size)] = percentiles(calls)
        row: Row = {"format": "eager", "status": "the trained model", "metrics": reference.trained, "batches": batches}
        if reference.metrics:
            row["score"] = f"{reference.trained[reference.metrics[0]]:.4f}"
        return row

    def write(self, format_: str) -> None:
        """Writes one format and adds it to the manifest."""
        example = tuple(map(torch.from_numpy, self.samples.batch(0, 2).inputs))
        opset, calibration = self.request.opset, self._calibration()
        self.program.graph.eval()
        self.artifacts.add(
            format_,
            lambda path: formats.write(format_, self.program, example, path, self.source, opset, calibration),
        )

    def verify(self, format_: str, reference: Reference, threads: int) -> Row:
        """Verifies one format that was written, and records the outcome."""
        path, card = self.artifacts.check(format_)
        bridge = Bridge(card)

        def score(runner: Runner) -> dict[str, float]:
            if self.program.raw is not None or self.program.texts is not None:
                return self.score_raw(bridge, runner)
            with standing_in(self.module, lambda *inputs: bridge.outputs(runner(bridge.inputs(inputs)))):
                return self.score()

        with trusting([path]), Worker(self.run, format_, threads) as worker:  # also if it could not be signed
            row = verify(worker, card, path, reference, score, self.request)
        self.artifacts.mark(format_, row["status"] == "verified")
        return {**row, "coverage": self.coverage.report, "threads": threads, "source": self.source}

    def score(self, checkpoint: Path | None = None) -> dict[str, float]:
        """Tests the module, or whatever replaces its ``forward``, and returns the metrics."""
        self.trainer.callbacks.append(self.coverage)
        try:
            found = self.trainer.test(
                self.module, datamodule=self.datamodule, ckpt_path=checkpoint, verbose=False, weights_only=True
            )
        except RuntimeError as error:
            if "loading state_dict" not in str(error):
                raise
            raise UserError(f"{checkpoint} was written by another model than {type(self.module).__name__}") from error
        finally:
            self.trainer.callbacks.remove(self.coverage)
        return {name: shortest(value) for result in found for name, value in result.items()}

    def score_raw(self, bridge: Bridge | None = None, runner: Runner | None = None) -> dict[str, float]:
        """Tests on raw inputs and masks of raw size; without a runner the trained model answers."""
        answers = RawAnswers(self.program, bridge, runner)
        before = self.trainer.callbacks
        # callbacks that draw or write test samples expect masks of the trained size
        kept = [each for each in before if not self.scores_masks or "on_test_batch_end" not in vars(type(each))]
        self.trainer.callbacks = [*kept, answers]
        masks = masks_in_raw_size(self.datamodule) if self.scores_masks else nullcontext()
        try:
            with standing_in(self.module, answers), masks:
                return self.score()
        finally:
            self.trainer.callbacks = before

    def _calibration(self) -> Iterator[list[np.ndarray]]:
        """Yields inputs of training samples, unaugmented ones if the data module offers them."""
        loader = getattr(self.datamodule, "calibration_dataloader", self.datamodule.train_dataloader)()
        for batch in islice(iter(loader), CALIBRATION_BATCHES):
            yield [each.numpy() for each in self.program.inputs(batch)]
