"""Opens an exported file in its runtime: NumPy arrays in, NumPy arrays out.

torch is imported only for its own files, so that a process that serves an ONNX file never loads it.
"""

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from plcourse.errors import UserError, first_line
from plcourse.export.artifacts import Artifacts, checked_onnx, is_data
from plcourse.export.card import Card, flatten
from plcourse.runs.run import Run

Runner = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


def open_exported(run: Run, format_: str, threads: int = 1) -> tuple[Runner, Card]:
    """Opens one exported format of a run, to be run with a number of threads.

    Raises:
        UserError: the format was not exported, its file is not the listed one or cannot be opened, or it is a program
            that is neither signed by this user nor trusted.
    """
    artifacts = Artifacts(run)
    path, card = artifacts.check(format_)
    if not is_data(format_):
        return _torch_runner(artifacts.program(format_), path, format_, threads), card
    checked_onnx(path)
    return _session(path, card, threads), card


def reference_runner(path: Path, card: Card) -> Runner | None:
    """The reference evaluator of the ONNX standard; None for other formats and for operators outside the standard."""
    if not card.format.startswith("onnx"):
        return None
    from onnx.reference import ReferenceEvaluator

    model = checked_onnx(path)
    if any(node.domain not in ("", "ai.onnx") for node in model.graph.node):
        return None
    evaluator = ReferenceEvaluator(model)

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        try:
            return list(evaluator.run(None, _named(inputs, card)))  # pyright: ignore[reportArgumentType, reportReturnType]
        except Exception as error:  # whatever NumPy raises
            raise UserError(f"{type(error).__name__}: {first_line(error)}") from error

    return run


def _session(path: Path, card: Card, threads: int) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # otherwise its threads keep spinning after a call and slow down whatever runs next
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's error classes have no common base
        raise UserError(f"{path}: onnxruntime cannot open it: {first_line(error)}") from error
    return lambda inputs: list(session.run(None, _named(inputs, card)))  # pyright: ignore[reportReturnType]


def _named(inputs: Sequence[np.ndarray], card: Card) -> dict[str, np.ndarray]:
    return dict(zip((port.name for port in card.inputs), inputs, strict=True))


def _torch_runner(content: io.BytesIO, path: Path, format_: str, threads: int) -> Runner:
    """Runs a program whose file, which error messages call ``path``, has this content."""
    import torch

    torch.set_num_threads(threads)
    exported = format_ == "torch_export"
    # the loader logs symbols that the exporter's simplification removed, which has no consequence
    logging.getLogger("torch._export.serde.serialize").setLevel(logging.ERROR)
    try:
        with _deprecations_ignored():
            program: Any = torch.export.load(content).module() if exported else torch.jit.load(content).eval()
    except Exception as error:  # zip, pickle and version errors alike
        raise UserError(f"{path} cannot be opened: {first_line(error)}") from error

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        with torch.inference_mode():
            return [each.numpy() for each in flatten(program(*map(torch.from_numpy, inputs)))]

    # it takes a moment in each call, so TorchScript, which needs none, goes without
    return _deprecations_ignored()(run) if exported else run


@contextmanager
def _deprecations_ignored() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.load` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "_check_is_size will be removed", FutureWarning)
        yield
