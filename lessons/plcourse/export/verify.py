"""Verifies an exported file against the trained model, and names every check that fails.

There are three questions, each stricter than the one before: do the numbers agree, do the decisions agree, and is the
test metric on the whole test set as good? The first two are asked at several batch sizes, because an exporter may
freeze the one that it saw. The numbers of ONNX files are also compared with a second, independent implementation, the
reference evaluator of the standard.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from plcourse.errors import UserError, first_line
from plcourse.export.artefacts import checked_onnx
from plcourse.export.card import Card, Port, flatten
from plcourse.export.certificate import Comparison, MetricRow, OutputRow, Row, Timing
from plcourse.export.graph import Bridge, Program
from plcourse.export.runners import Runner
from plcourse.export.samples import Probe, RawSamples, Samples, shape_of
from plcourse.export.scoring import MAX_VALUES
from plcourse.export.worker import Worker, timed
from plcourse.runs.export_request import ExportRequest

MAX_CALLS = 64  # per batch size
TIMED_SECONDS = 0.3  # per format and batch size
REFERENCE_SAMPLES = 2  # the reference evaluator is slow


@dataclass(frozen=True)
class Tolerance:
    """How much each output of a format may differ.

    Args:
        deviation: largest deviation, as a fraction of the output's largest value.
        agreement: smallest fraction of equal decisions: of samples, of a mask's pixels, of tokens.
    """

    deviation: float
    agreement: float


_FLOAT = Tolerance(deviation=1e-4, agreement=0.999)
# Rounding to 1 of 256 steps in a dozen layers moves outputs by several percent, but flips only close decisions.
_INT8 = Tolerance(deviation=0.25, agreement=0.98)
TOLERANCES = {"onnx_int8": _INT8, "onnx_int8_dynamic": _INT8}


@dataclass
class Reference:
    """What exported files are compared with.

    Args:
        samples: real samples, as the data module prepared them, with the outputs of the trained model.
        trained: the test metrics of the trained model.
        metrics: names of the metrics that must not get worse, the headline first.
        mode: whether larger (``max``) or smaller (``min``) values of them are better.
        smaller: inputs and outputs at another size of the free dimensions; None if only the batch is free.
        raw: the same samples and others before resizing, for files that resize; needs ``program``.
        program: what the files were made from.
    """

    samples: Samples
    trained: dict[str, float]
    metrics: Sequence[str] = ()
    mode: str = "max"
    smaller: tuple[list[np.ndarray], list[np.ndarray]] | None = None
    raw: RawSamples | None = None
    program: Program | None = None


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
            calls = worker.time(samples.batch(0, size)[1], TIMED_SECONDS)
            batches[str(size)] = {**found, **percentiles(calls)}
    row["batches"] = batches
    if raw is not None and reference.program is not None:
        row["raw_shapes"] = raw.shapes
        for probe in raw.probes:
            what = f"raw image of {shape_of(probe.raw)} pixels, compared with the image as the data module resizes it"
            with _check(failed, what) as reasons:
                reasons += _reasons(_compare_probe(worker, reference.program, card, probe), _FLOAT)
    if reference.smaller is not None:
        inputs, expected = reference.smaller
        with _check(failed, "another size") as reasons:
            outputs = _compare_once(worker(inputs), expected, samples.ids, card.outputs)
            row["other_size"] = _largest(outputs, len(expected[0]))
            reasons += _reasons(outputs, tolerance)
    if (evaluator := _onnx_reference(path, card)) is not None:
        _, inputs, expected = samples.batch(0, min(REFERENCE_SAMPLES, len(samples.ids)))
        with _check(failed, "onnx.reference") as reasons:
            outputs = _compare_once(evaluator(inputs), expected, samples.ids, card.outputs)
            row["onnx_reference"] = _largest(outputs, len(expected[0]))
            reasons += _reasons(outputs, tolerance)
    if reference.metrics and not failed:
        with _check(failed) as reasons:
            row["metric"], *row["other_metrics"] = found = drops(reference, score(worker))
            reasons += [
                f"{each['name']} is worse by {each['drop']:.4g}, which exceeds --max_drop {request.max_drop:g}"
                for each in found
                if not each["drop"] <= request.max_drop  # also if it is nan
            ]
    row["failed"] = failed
    if failed:
        row["status"] = "exported, not verified"
    return row


@contextmanager
def _check(failed: list[str], what: str = "") -> Iterator[list[str]]:
    """Yields a list for the reasons why a check fails, and adds them and any `UserError` to ``failed``."""
    reasons: list[str] = []
    try:
        yield reasons
    except UserError as error:
        reasons.append(str(error))
    failed += [f"{what}: {reason}" if what else reason for reason in reasons]


def drops(reference: Reference, exported: dict[str, float]) -> list[MetricRow]:
    """By how much each metric got worse; negative if it got better."""
    sign = 1 if reference.mode == "max" else -1
    pairs = {name: (reference.trained[name], exported[name]) for name in reference.metrics}
    return [
        {"name": name, "trained": trained, "exported": found, "drop": sign * (trained - found)}
        for name, (trained, found) in pairs.items()
    ]


class _Tally:
    """Accumulates the comparison of one output over batches; see `Port` for ``classes``."""

    def __init__(self, classes: int | None = None) -> None:
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


def compare(runner: Runner, groups: Sequence[Samples], size: int, ports: Sequence[Port]) -> Comparison:
    """Runs real samples in batches of one size; a batch repeats samples if its group has too few.

    Raises:
        UserError: the file cannot take this batch size, or its outputs have another shape.
    """
    tallies = [_Tally(port.classes) for port in ports]
    compared: set[str] = set()
    for group, start in islice(_calls(groups, size), MAX_CALLS):
        indices, inputs, expected = group.batch(start, size)
        ids = [group.ids[index] for index in indices]
        compared.update(ids)
        for tally, answer, right in zip(tallies, runner(inputs), expected, strict=True):
            tally.add(answer, right, ids)
    outputs = {port.name: tally.row() for port, tally in zip(ports, tallies, strict=True)}
    worst = max(tallies, key=lambda tally: tally.largest / (tally.scale or 1.0)).row()
    agreements = [row["agreement"] for row in outputs.values() if row["agreement"] is not None]
    return {
        "samples": len(compared),
        **worst,
        "agreement": min(agreements, default=None),
        "outputs": outputs,
    }


def _calls(groups: Sequence[Samples], size: int) -> Iterator[tuple[Samples, int]]:
    """Yields the group and the first sample of each call; groups alternate, since `MAX_CALLS` may end the calls early.

    Groups of images so large that a batch would not fit into memory are left to smaller batch sizes.
    """
    smallest = min(group.values for group in groups)
    fitting = [group for group in groups if group.values == smallest or group.values * size <= MAX_VALUES]
    for start in range(0, max(len(group.ids) for group in fitting), size):
        yield from ((group, start) for group in fitting if start < len(group.ids))


def _compare_probe(runner: Runner, program: Program, card: Card, probe: Probe) -> dict[str, OutputRow]:
    """Compares the file's outputs for a raw image with those for the image that the data module makes of it.

    The file is compared with itself, so that the cost of quantisation hides nothing.
    """
    prepared = flatten(Bridge(card).outputs(runner([probe.prepared])))
    expected = program.finished(prepared, probe.place)
    return _compare_once(runner([probe.raw]), expected, [probe.id], card.outputs)


def _compare_once(
    answers: Sequence[np.ndarray], expected: Sequence[np.ndarray], ids: Sequence[str], ports: Sequence[Port]
) -> dict[str, OutputRow]:
    """Compares the numbers of one batch; it is too small to compare decisions."""
    rows = {}
    for port, answer, right in zip(ports, answers, expected, strict=True):
        tally = _Tally()
        tally.add(answer, right, ids)
        rows[port.name] = tally.row()
    return rows


def _largest(outputs: dict[str, OutputRow], samples: int) -> dict[str, float]:
    return {"max_deviation": float(np.max([row["max_deviation"] for row in outputs.values()])), "samples": samples}


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


def percentiles(calls: Sequence[float]) -> Timing:
    """Summarises the seconds of some calls."""
    p50, p99 = np.percentile(np.array(calls) * 1e3, [50, 99])
    return {"p50_ms": float(p50), "p99_ms": float(p99), "calls": len(calls)}


def eager_row(program: Program, samples: Samples, trained: dict[str, float], sizes: Sequence[int]) -> Row:
    """The row of the trained model, run by torch in this process, which loads no other runtime."""
    batches = {str(size): percentiles(timed(program.eager, samples.batch(0, size)[1], TIMED_SECONDS)) for size in sizes}
    return {"format": "eager", "status": "the trained model", "metrics": trained, "batches": batches}


def _onnx_reference(path: Path, card: Card) -> Runner | None:
    """The standard's reference evaluator; None for other formats and for operators outside the standard."""
    if not card.format.startswith("onnx"):
        return None
    from onnx.reference import ReferenceEvaluator

    model = checked_onnx(path)
    if any(node.domain not in ("", "ai.onnx") for node in model.graph.node):
        return None
    evaluator = ReferenceEvaluator(model)
    names = [port.name for port in card.inputs]

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        try:
            answers: Any = evaluator.run(None, dict(zip(names, inputs, strict=True)))
            return list(answers)
        except Exception as error:  # whatever NumPy raises
            raise UserError(f"{type(error).__name__}: {first_line(error)}") from error

    return run
