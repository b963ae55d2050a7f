"""The certificate: an exported file is compared with the trained model, and fails by name.

Three questions, each stricter than the one before: do the numbers agree, do the decisions agree, and is the test metric
on the whole test set as good? The first two are asked at several batch sizes, because an exporter may freeze the one it
saw; numbers are also compared with a second, independent implementation of ONNX, the reference of the standard itself.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytorch_lightning as pl

from plcourse.core.errors import UserError, first_line
from plcourse.core.export_request import ExportRequest
from plcourse.core.exportable import ids_of
from plcourse.export.artefacts import checked_onnx
from plcourse.export.card import Card
from plcourse.export.graph import Bridge, Program
from plcourse.export.runners import Runner
from plcourse.export.worker import Worker, timed

MAX_SAMPLES = 256  # compared one by one; the metric takes the whole test set
MAX_CALLS = 64  # of each batch size
TIMED_SECONDS = 0.3  # per format and batch size
REFERENCE_SAMPLES = 2  # the reference implementation is written to be read, not to be fast


@dataclass(frozen=True)
class Tolerance:
    """What a format may differ by.

    Args:
        deviation: of an output, as a share of the largest one.
        agreement: the share of samples whose decision is the same, at least.
    """

    deviation: float
    agreement: float


_FLOAT = Tolerance(deviation=1e-4, agreement=0.999)
# One of 256 steps in each of a dozen layers: outputs move by several percent, decisions only where they were close.
_INT8 = Tolerance(deviation=0.25, agreement=0.98)
TOLERANCES = {"onnx_int8": _INT8, "onnx_int8_dynamic": _INT8}


@dataclass
class Samples:
    """Real test samples, as the exported files take them, with what the trained model answers.

    Attributes:
        ids: N of them.
        inputs: one array [N, ...] per input.
        outputs: one array [N, ...] per output.
    """

    ids: list[str] = field(default_factory=list)
    inputs: list[np.ndarray] = field(default_factory=list)
    outputs: list[np.ndarray] = field(default_factory=list)

    @classmethod
    def of(cls, program: Program, batches: Iterable[Any]) -> "Samples":
        """The first samples of some batches, up to `MAX_SAMPLES` and while they have one shape.

        Raises:
            UserError: there is none.
        """
        parts: list[tuple[list[np.ndarray], list[np.ndarray]]] = []
        ids: list[str] = []
        for batch in batches:
            inputs = [each.numpy() for each in program.inputs(batch)]
            if parts and any(a.shape[1:] != b.shape[1:] for a, b in zip(inputs, parts[0][0], strict=True)):
                break
            parts.append((inputs, program.reference(batch)))
            ids += ids_of(batch, len(ids), len(inputs[0]))
            if len(ids) >= MAX_SAMPLES:
                break
        if not ids:
            raise UserError("there is no test sample to verify the export with")
        inputs, outputs = (
            [np.concatenate(column) for column in zip(*side, strict=True)] for side in zip(*parts, strict=True)
        )
        return cls(ids[:MAX_SAMPLES], [x[:MAX_SAMPLES] for x in inputs], [y[:MAX_SAMPLES] for y in outputs])

    def batch(self, start: int, size: int) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
        """Indices, inputs and outputs of ``size`` samples from ``start`` on, beginning again after the last."""
        indices = np.arange(start, start + size) % len(self.ids)
        return indices, [x[indices] for x in self.inputs], [y[indices] for y in self.outputs]


def verify(
    worker: Worker,
    card: Card,
    path: Any,
    samples: Samples,
    smaller: tuple[list[np.ndarray], list[np.ndarray]] | None,
    trained: dict[str, float],
    score: Callable[[Runner], dict[str, float]],
    metric: tuple[str, str] | None,
    request: ExportRequest,
) -> dict[str, Any]:
    """Compares one exported file with the trained model.

    Args:
        worker: the process that has the file open.
        card: what the file says about itself.
        path: the file.
        samples: real samples.
        smaller: inputs and outputs at another size of the free dimensions beside the batch, None where there is none.
        trained: the test metrics of the trained model.
        score: computes them for a runner.
        metric: name and mode of the one that must not get worse, None where there is none.
        request: batch sizes, and by how much the metric may be worse.

    Returns:
        The row of ``verification.json``; ``failed`` lists every check that failed, in words.
    """
    tolerance = TOLERANCES.get(card.format, _FLOAT)
    classes = [port.classes for port in card.outputs]
    failed: list[str] = []
    row: dict[str, Any] = {
        "format": card.format,
        "bytes": sum(each.stat().st_size for each in path.parent.iterdir() if each.is_file()),
        "load_ms": 1e3 * worker.load_seconds,
        "tolerance": {"deviation": tolerance.deviation, "agreement": tolerance.agreement, "max_drop": request.max_drop},
        "batches": {},
    }
    for size in request.batch_sizes:
        try:
            found = compare(worker, samples, size, classes)
        except UserError as error:
            failed.append(f"batch size {size}: {error}")
            continue
        failed += [f"batch size {size}: {reason}" for reason in _reasons(found, tolerance)]
        calls = np.array(worker.time(samples.batch(0, size)[1], TIMED_SECONDS)) * 1e3
        row["batches"][str(size)] = {**found, **percentiles(calls)}
    if smaller is not None:
        failed += _check_again("another size", row, "other_size", lambda: (worker(smaller[0]), smaller[1]), tolerance)
    if (reference := _reference(path, card)) is not None:
        _, inputs, outputs = samples.batch(0, min(REFERENCE_SAMPLES, len(samples.ids)))
        failed += _check_again("onnx.reference", row, "onnx_reference", lambda: (reference(inputs), outputs), tolerance)
    if metric is not None and not failed:
        name, mode = metric
        exported = score(worker)[name]
        drop = (trained[name] - exported) * (1 if mode == "max" else -1)
        row["metric"] = {"name": name, "trained": trained[name], "exported": exported, "drop": drop}
        if not drop <= request.max_drop:  # also where it is nan
            failed.append(f"{name} is worse by {drop:.4g}, allowed are {request.max_drop:g} (--max_drop)")
    row["failed"] = failed
    row["status"] = "exported, not verified" if failed else "verified"
    return row


def compare(runner: Runner, samples: Samples, size: int, classes: Sequence[int | None]) -> dict[str, Any]:
    """Runs real samples in batches of one size.

    Returns:
        ``samples``, ``scale`` (the largest output of the trained model), ``max_deviation``, ``mean_deviation``,
        ``agreement`` (None where nothing is decided), ``worst`` (the id of the sample that deviates most).

    Raises:
        UserError: the file cannot take this size, or answers in another shape.
    """
    calls = min(MAX_CALLS, -(-len(samples.ids) // size))
    largest, total, n, agreed, decided, scale = 0.0, 0.0, 0, 0, 0, 0.0
    worst, finite = samples.ids[0], True
    for call in range(calls):
        indices, inputs, expected = samples.batch(call * size, size)
        found = runner(inputs)
        for answer, right, dimension in zip(found, expected, classes, strict=True):
            if answer.shape != right.shape:
                raise UserError(f"the output has shape {list(answer.shape)} in place of {list(right.shape)}")
            deviation = np.abs(answer.astype(np.float64) - right).reshape(size, -1)
            finite = finite and bool(np.isfinite(deviation).all())
            per_sample = deviation.max(axis=1)
            if per_sample.max() > largest:
                largest, worst = float(per_sample.max()), samples.ids[indices[per_sample.argmax()]]
            total, n = total + float(deviation.sum()), n + deviation.size
            scale = max(scale, float(np.abs(right).max()))
            if dimension is not None:
                same = answer.argmax(dimension) == right.argmax(dimension)
                agreed, decided = agreed + int(same.sum()), decided + same.size
    return {
        "samples": min(calls * size, len(samples.ids)),
        "scale": scale,
        "max_deviation": largest if finite else float("nan"),
        "mean_deviation": total / n,
        "agreement": agreed / decided if decided else None,
        "worst": worst,
    }


def percentiles(calls_ms: np.ndarray) -> dict[str, Any]:
    """``p50_ms`` and ``p99_ms`` of some calls, and how many there were."""
    p50, p99 = np.percentile(calls_ms, [50, 99])
    return {"p50_ms": float(p50), "p99_ms": float(p99), "calls": len(calls_ms)}


def eager_row(program: Program, samples: Samples, trained: dict[str, float], sizes: Sequence[int]) -> dict[str, Any]:
    """The row of the trained model itself, run by torch in this process, which loads no other runtime."""
    batches = {
        str(size): percentiles(np.array(timed(program.eager, samples.batch(0, size)[1], TIMED_SECONDS)) * 1e3)
        for size in sizes
    }
    return {"format": "eager", "status": "the trained model", "metrics": trained, "batches": batches}


@contextmanager
def standing_in(module: pl.LightningModule, card: Card, runner: Runner) -> Iterator[None]:
    """Lets an exported file answer in place of the ``forward`` of its model, so that any test step scores it."""
    bridge = Bridge(card)
    module.forward = lambda *inputs: bridge.outputs(runner(bridge.inputs(inputs)))
    try:
        yield
    finally:
        del module.forward


def _reasons(found: dict[str, Any], tolerance: Tolerance) -> list[str]:
    reasons = []
    allowed = tolerance.deviation * found["scale"]
    if not found["max_deviation"] <= allowed:
        reasons.append(
            f"outputs deviate by {found['max_deviation']:.2g} at {found['worst']}, allowed are {allowed:.2g}"
        )
    agreement = found["agreement"]
    if agreement is not None and agreement < tolerance.agreement:
        reasons.append(f"decisions agree on {agreement:.2%} of the samples, needed are {tolerance.agreement:.1%}")
    return reasons


def _check_again(
    what: str,
    row: dict[str, Any],
    key: str,
    answers: Callable[[], tuple[list[np.ndarray], list[np.ndarray]]],
    tolerance: Tolerance,
) -> list[str]:
    """One more comparison of outputs, entered into the row; the reasons why it failed."""
    try:
        found, expected = answers()
    except UserError as error:
        return [f"{what}: {error}"]
    if [x.shape for x in found] != [y.shape for y in expected]:
        return [f"{what}: the output has shape {list(found[0].shape)} in place of {list(expected[0].shape)}"]
    deviation = max(float(np.abs(x - y).max()) for x, y in zip(found, expected, strict=True))
    allowed = tolerance.deviation * max(float(np.abs(y).max()) for y in expected)
    row[key] = {"max_deviation": deviation, "samples": len(expected[0])}
    return [] if deviation <= allowed else [f"{what}: outputs deviate by {deviation:.2g}, allowed are {allowed:.2g}"]


def _reference(path: Any, card: Card) -> Runner | None:
    """The standard's own implementation, in Python; None for other formats, and for operators outside the standard."""
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
        except Exception as error:  # whatever NumPy makes of it
            raise UserError(f"{type(error).__name__}: {first_line(error)}") from error

    return run
