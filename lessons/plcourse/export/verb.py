"""Runs `plcourse export` and `plcourse benchmark latency` once the model, data and trainer exist."""

from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch

from plcourse.console import say
from plcourse.errors import RunFailed, UserError
from plcourse.export import formats
from plcourse.export import latency as racing
from plcourse.export.artefacts import Artefacts, digest
from plcourse.export.certificate import Row, table
from plcourse.export.graph import Bridge, Program
from plcourse.export.runners import Runner
from plcourse.export.samples import RawSamples, Samples
from plcourse.export.scoring import RawAnswers, masks_in_own_size
from plcourse.export.verify import Reference, eager_row, verify
from plcourse.export.worker import Worker, timed
from plcourse.files import write_json
from plcourse.runs.environment import environment
from plcourse.runs.export_request import ExportRequest
from plcourse.runs.recorder import shortest
from plcourse.runs.run import Run
from plcourse.training.callbacks import Coverage
from plcourse.training.exportable import RawMasks, as_exportable, standing_in
from plcourse.training.trainer import Trainer

CALIBRATION_BATCHES = 8
_DEPRECATED = "TorchScript is deprecated since torch 2.11 and gets no new features; for new work choose torch_export"


class Exporter:
    """A trained module and its data, ready to be exported into the run's folder.

    Without a checkpoint the module keeps its weights. The trainer scores it, and whatever replaces its ``forward``.

    Raises:
        UserError: the checkpoint belongs to another model, or the module cannot be exported as requested.
    """

    def __init__(
        self,
        run: Run,
        trainer: Trainer,
        module: pl.LightningModule,
        datamodule: pl.LightningDataModule,
        checkpoint: Path | None,
        request: ExportRequest,
    ) -> None:
        self.run, self.trainer, self.module, self.datamodule = run, trainer, module, datamodule
        self.request = request
        self.coverage = Coverage()
        self.artefacts = Artefacts(run)
        self.trained = self.score(checkpoint)
        batch = next(iter(datamodule.test_dataloader()))
        self.program = Program(
            module,
            as_exportable(module, batch),
            datamodule.state_dict(),
            request.preprocess,
            request.probabilities,
            datamodule,
        )
        self.samples = Samples.of(self.program, datamodule.test_dataloader())
        self.raw = RawSamples.of(self.program, datamodule)
        self.scores_masks = any(self.program.in_own_size) and isinstance(datamodule, RawMasks)
        if self.scores_masks:
            self.trained = self.score_raw()
        self.source = {
            "run": run.name,
            "checkpoint": checkpoint.name if checkpoint else None,
            "sha256": digest(checkpoint) if checkpoint else None,
            "trained_on": [training.digest for training in trainer.training_samples.trainings],
        }

    @cached_property
    def reference(self) -> Reference:
        """What exported files are compared with.

        Raises:
            UserError: the test does not log a metric of the module's signature.
        """
        signature = self.program.signature
        if missing := [name for name in signature.metrics if name not in self.trained]:
            known = ", ".join(self.trained)
            raise UserError(f"the export is verified by '{missing[0]}', but the test logs only {known}")
        smaller = None if self.raw is not None else self._smaller()  # raw images have several sizes
        metrics, mode = signature.metrics, signature.mode
        return Reference(self.samples, self.trained, metrics, mode, smaller, self.raw, self.program)

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
        masks = masks_in_own_size(self.datamodule) if self.scores_masks else nullcontext()
        try:
            with standing_in(self.module, answers), masks:
                return self.score()
        finally:
            self.trainer.callbacks = before

    def write(self, format_: str) -> None:
        """Writes one format and adds it to the manifest."""
        _, inputs, _ = self.samples.batch(0, 2)
        example = tuple(map(torch.from_numpy, inputs))
        self.program.graph.eval()
        try:
            path = self.artefacts.temporary(format_)
            opset = self.request.opset
            card = formats.write(format_, self.program, example, path, self.source, opset, self._calibration())
            self.artefacts.add(format_, card)
        finally:
            self.artefacts.discard(format_)

    def verify(self, format_: str, threads: int) -> Row:
        """Verifies one format that was written, and records the outcome."""
        path, card = self.artefacts.check(format_)
        bridge = Bridge(card)

        def score(runner: Runner) -> dict[str, float]:
            if self.program.raw is not None or self.program.texts is not None:
                return self.score_raw(bridge, runner)
            with standing_in(self.module, lambda *inputs: bridge.outputs(runner(bridge.inputs(inputs)))):
                return self.score()

        with Worker(self.run, format_, threads) as worker:
            row = verify(worker, card, path, self.reference, score, self.request)
        self.artefacts.mark(format_, row["status"] == "verified")
        return {**row, "coverage": self.coverage.report, "threads": threads, "source": self.source}

    def _smaller(self) -> tuple[list[np.ndarray], list[np.ndarray]] | None:
        _, inputs, _ = self.samples.batch(0, min(8, len(self.samples.ids)))
        smaller = formats.narrowed(tuple(map(torch.from_numpy, inputs)), self.program)
        if smaller is None:
            return None
        arrays = [each.numpy() for each in smaller]
        return arrays, self.program.eager(arrays)

    def _calibration(self) -> formats.Calibration:
        """Yields inputs of training samples, unaugmented ones if the data module offers them."""
        loader = getattr(self.datamodule, "calibration_dataloader", self.datamodule.train_dataloader)()
        for batch in islice(iter(loader), CALIBRATION_BATCHES):
            yield [each.numpy() for each in self.program.inputs(batch)]


def export(
    run: Run,
    trainer: Trainer,
    module: pl.LightningModule,
    datamodule: pl.LightningDataModule,
    checkpoint: Path | None,
    request: ExportRequest,
) -> None:
    """Writes and verifies every requested format, prints the table and writes ``verification.json``.

    Raises:
        UserError: see `Exporter`.
        RunFailed: a format could not be written or failed a check; the other formats exist.
    """
    exporter = Exporter(run, trainer, module, datamodule, checkpoint, request)
    threads = torch.get_num_threads()
    metrics = exporter.reference.metrics
    eager = eager_row(exporter.program, exporter.samples, exporter.trained, request.batch_sizes)
    if metrics:
        eager["score"] = f"{exporter.trained[metrics[0]]:.4f}"
    rows: list[Row] = []
    if any(name.startswith("torchscript") for name in request.formats):
        say(_DEPRECATED)
    for name in request.formats:
        say(f"export: {name} ...")
        try:
            exporter.write(name)
            rows.append(exporter.verify(name, threads))
        except UserError as error:
            rows.append({"format": name, "status": "not exported", "failed": [str(error)]})
    exporter.artefacts.certify([eager, *rows])
    scored = f", {', '.join(metrics)} on {_seen(exporter.coverage.report)}" if metrics else ""
    say(f"{len(exporter.samples.ids)} test samples compared{scored}; {threads} thread(s), one process per runtime")
    say("\n".join(table([eager, *rows], request.batch_sizes)))
    for row in rows:
        if row["status"] != "verified":
            raise RunFailed(f"{row['format']} is {row['status']}: {row.get('failed', [''])[0]}")
    say(f"verified: {exporter.artefacts.folder}")


def _seen(coverage: dict[str, int] | None) -> str:
    return "the test split" if coverage is None else f"{coverage['seen']} of {coverage['expected']}"


def latency(
    run: Run,
    trainer: Trainer,
    module: pl.LightningModule,
    datamodule: pl.LightningDataModule,
    checkpoint: Path | None,
    request: ExportRequest,
) -> None:
    """Times every verified format against the trained model, recommends one, and writes ``latency.json``.

    Raises:
        UserError: nothing was exported and verified from this checkpoint.
    """
    artefacts = Artefacts(run)
    cards, left_out = racing.candidates(artefacts, digest(checkpoint) if checkpoint else None, request.formats)
    card = next(iter(cards.values()))
    request = replace(request, preprocess=card.preprocess, probabilities=card.probabilities)
    exporter = Exporter(run, trainer, module, datamodule, checkpoint, request)
    threads = torch.get_num_threads()
    with ExitStack() as stack:
        clocks: dict[str, racing.Clock] = {racing.EAGER: partial(timed, exporter.program.eager)}
        for name in cards:
            clocks[name] = stack.enter_context(Worker(run, name, threads)).time
        inputs = {size: exporter.samples.batch(0, size)[1] for size in request.batch_sizes}
        results = racing.race(clocks, inputs, request.rounds)
    hardware = environment()["hardware"]
    write_json(
        artefacts.folder / "latency.json",
        {"threads": threads, "rounds": request.rounds, "batches": results, "left_out": left_out, "hardware": hardware},
    )
    say(f"{request.rounds} interleaved rounds, {threads} thread(s), one process per runtime")
    say("\n".join(racing.lines(results, left_out)))
