"""Verifies an exported file against the trained model, and names every check that fails.

There are three questions, each stricter than the one before: do the numbers agree, do the decisions agree, and is the
test metric on the whole test set as good? The first two are asked at several batch sizes, because an exporter may
freeze the one that it saw. The numbers of ONNX files are also compared with a second, independent implementation, the
reference evaluator of the standard.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from plcourse.errors import UserError
from plcourse.export.card import Card, Port, flatten
from plcourse.export.certificate import Comparison, MetricRow, OutputRow, Row
from plcourse.export.graph import Bridge, Program
from plcourse.export.runners import Runner, reference_runner
from plcourse.export.samples import Probe, RawSamples, Samples, shape_of
from plcourse.export.scoring import MAX_VALUES
from plcourse.export.worker import TIMED_SECONDS, Worker, percentiles
from plcourse.runs.export_request import ExportRequest

MAX_CALLS = 64  # per batch size
REFERENCE_SAMPLES = 2  # the reference evaluator is slow


@dataclass(frozen=True)
class Tolerance:
    """How much each output of a format may differ."""

    deviation: float  # at most this fraction of the output's largest value
    agreement: float  # at least this fraction of equal decisions: of samples, of a mask's pixels, of tokens


_FLOAT = Tolerance(deviation=1e-4, agreement=0.999)
# Rounding to 1 of 256 steps in a dozen layers moves outputs by several percent, but flips only close decisions.
_INT8 = Tolerance(deviation=0.25, agreement=0.98)
TOLERANCES = {"onnx_int8": _INT8, "onnx_int8_dynamic": _INT8}


@dataclass
class Reference:
    """What exported files are compared with."""

    samples: Samples  # as the data module prepared them
    trained: dict[str, float]  # the test metrics of the trained model
    metrics: Sequence[str] = ()  # those that must not get worse, the headline first
    mode: str = "max"  # whether larger (max) or smaller (min) values of them are better
    smaller: Samples | None = None  # samples of another size of the free dimensions, if not only the batch is free
    raw: RawSamples | None = None  # the same samples and others before resizing, for files that resize


def verify(
    worker: Worker,
    card: Card,
    path: Path,
    reference: Reference,
    score: Callable[[Runner], dict[str, float]],
    request: ExportRequest,
) -> Row:
    """Compares an exported file, which a worker has open, with the trained model.

    ``score`` computes the test metrics of a runner. The request has the batch sizes, and by how much a metric may be
    worse.

    Returns:
        The row of ``verification.json``; ``failed`` lists every failed check in words.
    """
    tolerance = TOLERANCES.get(card.format, _FLOAT)
    failed: list[str] = []
    row: Row = {
        "format": card.format,
        "status": "verified",
        "bytes": sum(each.stat().st_size for each in path.parent.iterdir() if each.is_file()),
        "load_ms": 1e3 * worker.load_seconds,
        "tolerance": {"deviation": tolerance.deviation, "agreement": tolerance.agreement, "max_drop": request.max_drop},
    }
    samples, raw = reference.samples, reference.raw
    batches = {}
    for size in request.batch_sizes:
        with _check(failed, f"batch size {size}") as reasons:
            found = compare(worker, raw.groups if raw else [samples], size, card.outputs)
            reasons += _reasons(found["outputs"], tolerance)
            calls = worker.time(samples.batch(0, size).inputs, TIMED_SECONDS)
            batches[str(size)] = {**found, **percentiles(calls)}
    row["batches"] = batches
    if raw is not None:
        row["raw_shapes"] = raw.shapes
        for probe in raw.probes:
            what = f"raw image of {shape_of(probe.raw)} pixels, compared with the image as the data module resizes it"
            with _check(failed, what) as reasons:
                reasons += _reasons(_compare_probe(worker, raw.program, card, probe), _FLOAT)
    if reference.smaller is not None:
        with _check(failed, "another size") as reasons:
            outputs = _compare_once(worker, reference.smaller, card.outputs)
            row["other_size"] = _largest(outputs, reference.smaller)
            reasons += _reasons(outputs, tolerance)
    if (evaluator := reference_runner(path, card)) is not None:
        few = samples.first(REFERENCE_SAMPLES)
        with _check(failed, "onnx.reference") as reasons:
            outputs = _compare_once(evaluator, few, card.outputs)
            row["onnx_reference"] = _largest(outputs, few)
            reasons += _reasons(outputs, tolerance)
    if reference.metrics and not failed:
        with _check(failed) as reasons:
            row["metric"], *row["other_metrics"] = found = _drops(reference, score(worker))
            reasons += [
                f"{each['name']} is worse by {each['drop']:.4g}, which exceeds --max_drop {request.max_drop:g}"
                for each in found
                if not each["drop"] <= request.max_drop  # also if it is nan
            ]
    row["failed"] = failed
    if failed:
        row["status"] = "exported, not verified"
    return row


def compare(runner: Runner, groups: Sequence[Samples], size: int, ports: Sequence[Port]) -> Comparison:
    """Runs real samples in batches of one size; a batch repeats samples if its group has too few.

    Raises:
        UserError: the file cannot take this batch size, or its outputs have another shape.
    """
    tallies = [_Tally(port.classes) for port in ports]
    compared: set[str] = set()
    for batch in islice(_batches(groups, size), MAX_CALLS):
        compared.update(batch.ids)
        for tally, answer, right in zip(tallies, runner(batch.inputs), batch.outputs, strict=True):
            tally.add(answer, right, batch.ids)
    outputs = {port.name: tally.row() for port, tally in zip(ports, tallies, strict=True)}
    worst = max(tallies, key=lambda tally: tally.largest / (tally.scale or 1.0)).row()
    agreements = [row["agreement"] for row in outputs.values() if row["agreement"] is not None]
    return {"samples": len(compared), **worst, "agreement": min(agreements, default=None), "outputs": outputs}


def _batches(groups: Sequence[Samples], size: int) -> Iterator[Samples]:
    """Yields the batches; groups alternate, since `MAX_CALLS` may end the calls early.

    Groups of images so large that a batch would not fit into memory are left to smaller batch sizes.
    """
    values = [sum(x[0].size for x in group.inputs) for group in groups]  # in the inputs of one sample
    fitting = [g for g, n in zip(groups, values, strict=True) if n == min(values) or n * size <= MAX_VALUES]
    for start in range(0, max(len(group.ids) for group in fitting), size):
        yield from (group.batch(start, size) for group in fitting if start < len(group.ids))


class _Tally:
    """Accumulates the comparison of one output over batches; see `Port` for ``classes``."""

    def __init__(self, classes: int | None) -> None:
        self.classes, self.worst = classes, ""
        self.largest, self.scale, self.total, self.n = -1.0, 0.0, 0.0, 0
        self.agreed, self.decided = 0, 0

    def add(self, answer: np.ndarray, right: np.ndarray, ids: Sequence[str]) -> None:
        """Adds a batch of answers of the file and the right answers."""
        if answer.shape != right.shape:
            raise UserError(f"the output has shape {list(answer.shape)}; it should be {list(right.shape)}")
        deviation = np.abs(answer.astype(np.float64) - right).reshape(len(right), -1)
        per_sample = np.nan_to_num(deviation.max(axis=1), nan=np.inf)
        if per_sample.max() > self.largest:
            self.largest, self.worst = float(per_sample.max()), ids[int(per_sample.argmax())]
        self.total, self.n = self.total + float(deviation.sum()), self.n + deviation.size
        self.scale = max(self.scale, float(np.abs(right).max()))
        if self.classes is not None:
            same = answer.argmax(self.classes) == right.argmax(self.classes)
            self.agreed, self.decided = self.agreed + int(same.sum()), self.decided + same.size

    def row(self) -> OutputRow:
        """The comparison so far."""
        return {
            "scale": self.scale,
            "max_deviation": self.largest if np.isfinite(self.largest) else float("nan"),
            "mean_deviation": self.total / self.n,
            "agreement": self.agreed / self.decided if self.decided else None,
            "worst": self.worst,
        }


def _compare_once(runner: Runner, batch: Samples, ports: Sequence[Port]) -> dict[str, OutputRow]:
    """Compares the numbers of one batch; it is too small to compare decisions."""
    return compare(runner, [batch], len(batch.ids), [replace(port, classes=None) for port in ports])["outputs"]


def _compare_probe(runner: Runner, program: Program, card: Card, probe: Probe) -> dict[str, OutputRow]:
    """Compares the file's outputs for a raw image with those for the image that the data module makes of it.

    The file is compared with itself, so that the cost of quantization hides nothing.
    """
    prepared = flatten(Bridge(card).outputs(runner([probe.prepared])))
    expected = program.finished(prepared, probe.place)
    return _compare_once(runner, Samples([probe.id], [probe.raw], expected), card.outputs)


def _largest(outputs: dict[str, OutputRow], batch: Samples) -> dict[str, float]:
    largest = float(np.max([row["max_deviation"] for row in outputs.values()]))  # nan if one is
    return {"max_deviation": largest, "samples": len(batch.ids)}


def _drops(reference: Reference, exported: dict[str, float]) -> list[MetricRow]:
    """By how much each metric got worse; negative if it got better."""
    sign = 1 if reference.mode == "max" else -1
    pairs = {name: (reference.trained[name], exported[name]) for name in reference.metrics}
    return [
        {"name": name, "trained": trained, "exported": found, "drop": sign * (trained - found)}
        for name, (trained, found) in pairs.items()
    ]


@contextmanager
def _check(failed: list[str], what: str = "") -> Iterator[list[str]]:
    """Yields a list for the reasons why a check fails, and adds them and any `UserError` to ``failed``."""
    reasons: list[str] = []
    try:
        yield reasons
    except UserError as error:
        reasons.append(str(error))
    failed += [f"{what}: {reason}" if what else reason for reason in reasons]


def _reasons(outputs: dict[str, OutputRow], tolerance: Tolerance) -> list[str]:
    reasons = []
    for name, output in outputs.items():
        which = f" of {name}" if len(outputs) > 1 else ""
        allowed, deviation = tolerance.deviation * output["scale"], output["max_deviation"]
        if not deviation <= allowed:  # also if it is nan
            reasons.append(
                f"max deviation{which} {deviation:.2g} (sample {output['worst']}) exceeds the tolerance {allowed:.2g}"
            )
        agreement = output["agreement"]
        if agreement is not None and agreement < tolerance.agreement:
            reasons.append(f"{agreement:.2%} of the decisions{which} agree; {tolerance.agreement:.1%} are required")
    return reasons
