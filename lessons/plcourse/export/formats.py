"""How each format is written: one function per exporter, from a `Program` to a file.

| format | written by | what it is |
|---|---|---|
| ``onnx`` | ``torch.onnx.export(dynamo=True)`` | a graph of ONNX operators, for any ONNX runtime |
| ``onnx_int8`` | onnxruntime's static quantisation | the same with int8 weights and activations (`quantise.py`) |
| ``onnx_int8_dynamic`` | onnxruntime's dynamic quantisation | int8 weights; activations measured in each call |
| ``torchscript_trace`` | ``torch.jit.trace`` | the operators that one example called; deprecated since torch 2.11 |
| ``torchscript_script`` | ``torch.jit.script`` | the compiled program, with branches and loops; also deprecated |
| ``torch_export`` | ``torch.export`` | the graph with its constraints, the successor of the two above |

Exporters are imported where they are used, because their imports are slow.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.core.module import _jit_is_scripting
from torch import Tensor

from plcourse.errors import UserError, first_line
from plcourse.export.card import KEY, Card
from plcourse.export.graph import Program
from plcourse.export.quantise import Calibration, quantise_dynamically, quantise_statically
from plcourse.training.exportable import Dimension

Example = tuple[Tensor, ...]

_KNOWN_WARNINGS = (
    # torch's LSTM, exported with a free batch, calls a check that is about to be renamed
    ("_check_is_size will be removed", FutureWarning),
    # an LSTM reassigns the list of its weights while it is traced; the weights stay the same
    ("The tensor attributes .*_flat_weights.* were assigned during export", UserWarning),
    # an LSTM checks the shape of its input with a Python `if`, which holds for any batch size
    ("Converting a tensor to a Python boolean", Warning),
    # two inputs share the free batch dimension, so the second name is not used
    ("The axis name: .* will not be used", UserWarning),
    # torch.onnx reads the gradients of what it traces when it tries another way after a failure
    (r"The \.grad attribute of a Tensor that is not a leaf Tensor", UserWarning),
    # torch.jit.script reads every property of a module's metrics, a deprecated one included
    ("This property will be removed in 2.0.0", DeprecationWarning),
    # the verb says once, in words, that TorchScript is deprecated
    (r"`torch\.jit\.\w+` is deprecated", FutureWarning),
)


@contextmanager
def known_warnings_aside() -> Iterator[None]:
    """Ignores the exporters' harmless warnings and keeps all others."""
    with warnings.catch_warnings():
        for message, category in _KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", f"(?s).*{message}", category)
        yield


@dataclass
class _Task:
    """What an exporter needs to write one file; see `write`."""

    program: Program
    example: Example
    path: Path
    card: Card
    opset: int
    calibration: Calibration


def write(
    format_: str,
    program: Program,
    example: Example,
    path: Path,
    source: dict[str, Any],
    opset: int,
    calibration: Calibration,
) -> Card:
    """Writes a program to a file.

    Args:
        format_: one of `plcourse.runs.export_request.FORMATS`.
        program: the program.
        example: inputs of two or more real samples, since exporters treat a batch size of 1 as a constant.
        path: the file.
        source: where the program comes from; see `Card.source`.
        opset: the ONNX opset version.
        calibration: batches of inputs from the training data, for ``onnx_int8``.

    Returns:
        The card that the file carries.

    Raises:
        UserError: the exporter cannot write this program; the message quotes its first line.
    """
    tools = {"torch": version("torch"), "plcourse": version("plcourse")}
    if format_.startswith("onnx"):
        tools |= {name: version(name) for name in ("onnx", "onnxscript", "onnxruntime")}
    card = program.card(format_, example, source, tools)
    try:
        with known_warnings_aside():
            return _WRITERS[format_](_Task(program, example, path, card, opset, calibration))
    except UserError:
        raise
    except Exception as error:  # each exporter has its own errors
        cause = error
        while cause.__cause__ is not None:  # torch.onnx reports its steps, and the reason as their cause
            cause = cause.__cause__
        raise UserError(
            f"{type(program.module).__name__} cannot be written as {format_}: {first_line(cause)}"
        ) from error


def _onnx(task: _Task) -> Card:
    card = replace(task.card, opset=task.opset)
    exported = torch.onnx.export(
        task.program.graph,
        task.example,
        dynamo=True,
        dynamic_shapes=_free_dimensions(task.program),
        input_names=[port.name for port in card.inputs],
        output_names=[port.name for port in card.outputs],
        opset_version=task.opset,
        external_data=False,  # one file
        verbose=False,
    )
    assert exported is not None
    model = exported.model_proto
    for port, tensor in zip(card.inputs, model.graph.input, strict=True):
        # if torch cannot keep a size free, its exporter freezes it without a warning
        for wanted, found in zip(port.shape, tensor.type.tensor_type.shape.dim, strict=True):
            if isinstance(wanted, str) and not found.dim_param:
                raise UserError(
                    f"{type(task.program.module).__name__} cannot be written as {card.format} with the size '{wanted}' "
                    f"of '{port.name}' free: the exporter froze it at {found.dim_value}"
                )
    _save_onnx(model, task.path, card)
    return card


def _int8(task: _Task) -> Card:
    card = _onnx(task)
    _save_onnx(quantise_statically(task.path, card, task.calibration), task.path, card)
    return card


def _int8_dynamic(task: _Task) -> Card:
    card = _onnx(task)
    _save_onnx(quantise_dynamically(task.path), task.path, card)
    return card


def _trace(task: _Task) -> Card:
    with torch.inference_mode(False), torch.no_grad():
        traced = torch.jit.trace(task.program.graph, task.example)
        torch.jit.save(traced, task.path, _extra_files={KEY: task.card.to_json()})
    return task.card


def _script(task: _Task) -> Card:
    module = task.program.module
    trainer, module._trainer = module._trainer, None
    try:  # the compiler reads every attribute, the trainer included, which Lightning allows to be missing meanwhile
        with _jit_is_scripting():
            scripted = torch.jit.script(task.program.graph)
            torch.jit.save(scripted, task.path, _extra_files={KEY: task.card.to_json()})
    finally:
        module._trainer = trainer
    return task.card


def _torch_export(task: _Task) -> Card:
    exported = torch.export.export(task.program.graph, task.example, dynamic_shapes=_free_dimensions(task.program))
    torch.export.save(exported, task.path, extra_files={KEY: task.card.to_json()})
    return task.card


_WRITERS: dict[str, Callable[[_Task], Card]] = {
    "onnx": _onnx,
    "onnx_int8": _int8,
    "onnx_int8_dynamic": _int8_dynamic,
    "torchscript_trace": _trace,
    "torchscript_script": _script,
    "torch_export": _torch_export,
}


def _free_dimensions(program: Program) -> tuple[dict[int, Any], ...]:
    """The free dimensions of each input for torch.export; equal names mean the same dimension."""
    named: dict[str, Any] = {}

    def dim(free: Dimension) -> Any:
        return named.setdefault(free.name, torch.export.Dim(free.name, min=free.min, max=free.max))

    return tuple({position: dim(free) for position, free in each.free.items()} for each in program.signature.inputs)


def _save_onnx(model: Any, path: Path, card: Card) -> None:
    """Checks a model, adds its card and saves it as one file."""
    import onnx

    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets.get("") != card.opset:
        raise UserError(f"--opset {card.opset}: the exporter wrote opset {opsets.get('')}; request that one")
    del model.metadata_props[:]
    entries = {KEY: card.to_json(), "class_names": ",".join(card.class_names), "run": str(card.source.get("run", ""))}
    onnx.helper.set_model_props(model, entries)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def narrowed(example: Sequence[Tensor], program: Program) -> Example | None:
    """Halves every free dimension of the example except the batch; None if there is no such dimension."""
    changed, inputs = False, []
    for each, free in zip(example, (port.free for port in program.signature.inputs), strict=True):
        for position, dimension in free.items():
            if position:
                each = each.narrow(position, 0, max(dimension.min, each.shape[position] // 2))
                changed = True
        inputs.append(each.contiguous())
    return tuple(inputs) if changed else None
