"""Opens an exported file in its runtime: NumPy arrays in, NumPy arrays out.

torch is imported only for its own files, so that a process that serves an ONNX file never loads it.
"""

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plcourse.errors import UserError, first_line
from plcourse.export.artefacts import Artefacts, checked_onnx
from plcourse.export.card import KEY, Card, flatten
from plcourse.runs.run import Run

Runner = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


def open_exported(run: Run, format_: str, threads: int = 1) -> tuple[Runner, Card]:
    """Opens one format of a run's export.

    Args:
        run: the run.
        format_: one of `plcourse.runs.export_request.FORMATS`.
        threads: threads per call, 1 or more.

    Raises:
        UserError: the format was not exported, or its file is not the listed one or cannot be opened.
    """
    path, card = Artefacts(run).check(format_)
    return opened(path, card, threads), card


def opened(path: Path, card: Card, threads: int) -> Runner:
    """Opens a file with a verified checksum; see `open_exported`."""
    if card.format.startswith("onnx"):
        checked_onnx(path)
        return _session(path, [port.name for port in card.inputs], threads)
    import torch

    torch.set_num_threads(threads)
    return _torch_export(path) if card.format == "torch_export" else _torchscript(path)


def open_onnx(path: Path, threads: int = 1) -> tuple[Runner, Card]:
    """Opens an ONNX file of this suite anywhere on disk, and reads the card from its metadata.

    Raises:
        UserError: the file is truncated, refers to files outside its folder, or has no card.
    """
    model = checked_onnx(path)
    texts = {entry.key: entry.value for entry in model.metadata_props}
    card = Card.from_json(texts.get(KEY, ""), str(path))
    return _session(path, [port.name for port in card.inputs], threads), card


def _session(path: Path, names: list[str], threads: int) -> Runner:
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

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        outputs: Any = session.run(None, dict(zip(names, inputs, strict=True)))
        return list(outputs)

    return run


def _torchscript(path: Path) -> Runner:
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.load` is deprecated", FutureWarning)
        program = _loaded(torch.jit.load, path)
    return _torch_runner(program.eval())


def _torch_export(path: Path) -> Runner:
    import torch

    # its log reports symbols that the exporter's simplification removed, which has no consequence
    logging.getLogger("torch._export.serde.serialize").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "_check_is_size will be removed", FutureWarning)
        return _torch_runner(_loaded(torch.export.load, path).module(), quiet=True)


def _loaded(load: Callable[[Any], Any], path: Path) -> Any:
    try:
        return load(str(path))
    except Exception as error:  # zip, pickle and version errors alike
        raise UserError(f"{path} cannot be opened: {first_line(error)}") from error


def _torch_runner(program: Any, quiet: bool = False) -> Runner:
    import torch

    def run(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        with torch.inference_mode():
            return [each.numpy() for each in flatten(program(*map(torch.from_numpy, inputs)))]

    if not quiet:
        return run

    def run_quietly(inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "_check_is_size will be removed", FutureWarning)
            return run(inputs)

    return run_quietly
