"""The certificate: an exported file is compared with the trained model, and fails by name.

Three questions, each stricter than the one before: do the numbers agree, do the decisions agree, and is the test metric
on the whole test set as good? The first two are asked at several batch sizes, because an exporter may freeze the one it
saw; numbers are also compared with a second, independent implementation of ONNX, the reference of the standard itself.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from plcourse.core.errors import UserError, first_line
from plcourse.core.export_request import ExportRequest
from plcourse.export.artefacts import checked_onnx
from plcourse.export.card import Card, Port, flatten
from plcourse.export.graph import Bridge, Program
from plcourse.export.runners import Runner
from plcourse.export.samples import Probe, RawSamples, Samples, shape_of
from plcourse.export.scoring import MAX_VALUES
from plcourse.export.worker import Worker, timed

MAX_CALLS = 64  # of each batch size
TIMED_SECONDS = 0.3  # per format and batch size
REFERENCE_SAMPLES = 2  # the reference implementation is written to be read, not to be fast


@dataclass(frozen=True)
class Tolerance:
    """What a format may differ by, in each of its outputs.

    Args:
        deviation: as a share of the output's largest value.
        agreement: the share of decisions that are the same, at least: of samples, of a mask's pixels, of tokens.
    """

    deviation: float
    agreement: float


_FLOAT = Tolerance(deviation=1e-4, agreement=0.999)
# One of 256 steps in each of a dozen layers: outputs move by several percent, decisions only where they were close.
_INT8 = Tolerance(deviation=0.25, agreement=0.98)
TOLERANCES = {"onnx_int8": _INT8, "onnx_int8_dynamic": _INT8}


def verify(
    worker: Worker,
    card: Card,
    path: Any,
    samples: Samples,
    smaller: tuple[list[np.ndarray], list[np.ndarray]] | None,
    trained: dict[str, float],
    score: Callable[[Runner], dict[str, float]],
    metrics: Sequence[str],
    mode: str,
    request: ExportRequest,
    raw: RawSamples | None = None,
    program: Program | None = None,
) -> dict[str, Any]:
    """Compares one exported file with the trained model.

    Args:
        worker: the process that has the file open.
        card: what the file says about itself.
        path: the file.
        samples: real samples, as the data module prepared them.
        smaller: inputs and outputs at another size of the free dimensions beside the batch, None where there is none.
        trained: the test metrics of the trained model.
        score: computes them for a runner.
        metrics: those that must not get worse, the first of them the headline.
        mode: whether a larger (``max``) or a smaller (``min``) value of them is better.
        request: batch sizes, and by how much the metric may be worse.
        raw: the same samples and others as the file takes them, where it resizes images.
        program: what the file was made from; needed for raw images.

    Returns:
        The row of ``verification.json``; ``failed`` lists every check that failed, in words.
    """
    tolerance = TOLERANCES.get(card.format, _FLOAT)
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
            found = compare(worker, raw.groups if raw else [samples], size, card.outputs)
        except UserError as error:
            failed.append(f"batch size {size}: {error}")
            continue
        failed += [f"batch size {size}: {reason}" for reason in _reasons(found, tolerance)]
        calls = np.array(worker.time(samples.batch(0, size)[1], TIMED_SECONDS)) * 1e3
        row["batches"][str(size)] = {**found, **percentiles(calls)}
    if raw is not None and program is not None:
        row["raw_shapes"] = raw.shapes
        failed += misprepared(worker, program, card, raw.probes)
    if smaller is not None:
        failed += _check_again("another size", row, "other_size", lambda: (worker(smaller[0]), smaller[1]), tolerance)
    if (reference := _reference(path, card)) is not None:
        _, inputs, outputs = samples.batch(0, min(REFERENCE_SAMPLES, len(samples.ids)))
        failed += _check_again("onnx.reference", row, "onnx_reference", lambda: (reference(inputs), outputs), tolerance)
    if metrics and not failed:
        try:
            row["metric"], *row["other_metrics"] = found = drops(trained, score(worker), metrics, mode)
            failed += [
                f"{each['name']} is worse by {each['drop']:.4g}, allowed are {request.max_drop:g} (--max_drop)"
                for each in found
                if not each["drop"] <= request.max_drop  # also where it is nan
            ]
        except UserError as error:
            failed.append(str(error))
    row["failed"] = failed
    row["status"] = "exported, not verified" if failed else "verified"
    return row


def drops(
    trained: dict[str, float], exported: dict[str, float], metrics: Sequence[str], mode: str
) -> list[dict[str, Any]]:
    """What each metric was and is, and by how much it got worse, below 0 where it got better."""
    sign = 1 if mode == "max" else -1
    return [
        {
            "name": name,
            "trained": trained[name],
            "exported": exported[name],
            "drop": sign * (trained[name] - exported[name]),
        }
        for name in metrics
    ]


class _Tally:
    """What is known of one output so far: deviations, decisions, and the sample that is worst.

    Args:
        classes: the dimension whose largest value is the decision; None where nothing is decided.
    """

    def __init__(self, classes: int | None) -> None:
        self.classes, self.worst = classes, ""
        self.largest, self.scale, self.total, self.n = -1.0, 0.0, 0.0, 0
        self.agreed, self.decided = 0, 0

    def add(self, answer: np.ndarray, right: np.ndarray, ids: Sequence[str]) -> None:
        """One batch of answers, in place of the right ones."""
        if answer.shape != right.shape:
            raise UserError(f"the output has shape {list(answer.shape)} in place of {list(right.shape)}")
        deviation = np.abs(answer.astype(np.float64) - right).reshape(len(ids), -1)
        per_sample = np.nan_to_num(deviation.max(axis=1), nan=np.inf)
        if per_sample.max() > self.largest:
            self.largest, self.worst = float(per_sample.max()), ids[int(per_sample.argmax())]
        self.total, self.n = self.total + float(deviation.sum()), self.n + deviation.size
        self.scale = max(self.scale, float(np.abs(right).max()))
        if self.classes is not None:
            same = answer.argmax(self.classes) == right.argmax(self.classes)
            self.agreed, self.decided = self.agreed + int(same.sum()), self.decided + same.size

    def row(self) -> dict[str, Any]:
        """The tally as `compare` returns it."""
        return {
            "scale": self.scale,
            "max_deviation": self.largest if np.isfinite(self.largest) else float("nan"),
            "mean_deviation": self.total / self.n,
            "agreement": self.agreed / self.decided if self.decided else None,
            "worst": self.worst,
        }


def compare(runner: Runner, groups: Sequence[Samples], size: int, ports: Sequence[Port]) -> dict[str, Any]:
    """Runs real samples in batches of one size; a batch has samples of one group, repeated where it has too few.

    Returns:
        ``samples``; by output in ``outputs`` the ``scale`` (the largest value of the trained model), ``max_deviation``,
        ``mean_deviation``, ``agreement`` (None where nothing is decided), ``worst`` (the id of the sample that deviates
        most); and beside them the same of the output that deviates most for its scale, with the least agreement of all.

    Raises:
        UserError: the file cannot take this size, or answers in another shape.
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
    """Which group's samples each call takes, and from where on: the groups in turn, for there may be more than calls.

    Groups of images so large that a batch does not fit into the memory are left to smaller batches.
    """
    smallest = min(group.values for group in groups)
    fitting = [group for group in groups if group.values == smallest or group.values * size <= MAX_VALUES]
    for start in range(0, max(len(group.ids) for group in fitting), size):
        yield from ((group, start) for group in fitting if start < len(group.ids))


def misprepared(runner: Runner, program: Program, card: Card, probes: Sequence[Probe]) -> list[str]:
    """Where the file answers otherwise to a raw image than to what the data module makes of it, in words.

    The file is compared with itself, so that nothing hides behind what quantisation may cost.
    """
    bridge, reasons = Bridge(card), []
    for probe in probes:
        what = f"raw image of {shape_of(probe.raw)} pixels"
        try:
            answers = runner([probe.raw])
            prepared = flatten(bridge.outputs(runner([probe.prepared])))
        except UserError as error:
            reasons.append(f"{what}: {error}")
            continue
        for port, answer, right in zip(card.outputs, answers, program.finished(prepared, probe.place), strict=True):
            if answer.shape != right.shape:
                reasons.append(f"{what}: {port.name} has shape {list(answer.shape)} in place of {list(right.shape)}")
                continue
            found, allowed = float(np.abs(answer - right).max()), _FLOAT.deviation * float(np.abs(right).max())
            if not found <= allowed:
                reasons.append(
                    f"{what}: {port.name} deviates by {found:.2g} from that of the image as the data module resizes "
                    f"it, allowed are {allowed:.2g}"
                )
    return reasons


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


def _reasons(found: dict[str, Any], tolerance: Tolerance) -> list[str]:
    reasons = []
    for name, output in found["outputs"].items():
        which = f" ({name})" if len(found["outputs"]) > 1 else ""
        allowed = tolerance.deviation * output["scale"]
        if not output["max_deviation"] <= allowed:
            found_at = f"{output['max_deviation']:.2g} at {output['worst']}"
            reasons.append(f"outputs deviate by {found_at}, allowed are {allowed:.2g}{which}")
        agreement = output["agreement"]
        if agreement is not None and agreement < tolerance.agreement:
            reasons.append(f"decisions agree on {agreement:.2%}, needed are {tolerance.agreement:.1%}{which}")
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
    pairs = list(zip(found, expected, strict=True))
    if differing := [(x.shape, y.shape) for x, y in pairs if x.shape != y.shape]:
        return [f"{what}: the output has shape {list(differing[0][0])} in place of {list(differing[0][1])}"]
    deviations = [float(np.abs(x - y).max()) for x, y in pairs]
    row[key] = {"max_deviation": max(deviations), "samples": len(expected[0])}
    allowed = [tolerance.deviation * float(np.abs(y).max()) for y in expected]
    return [
        f"{what}: outputs deviate by {deviation:.2g}, allowed are {most:.2g}"
        for deviation, most in zip(deviations, allowed, strict=True)
        if not deviation <= most
    ]


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
