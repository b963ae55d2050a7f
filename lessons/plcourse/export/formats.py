"""Writes a trained model as a file in one of six formats.

| format | written by | what it is |
|---|---|---|
| ``onnx`` | ``torch.onnx.export(dynamo=True)`` | a graph of ONNX operators, for any ONNX runtime |
| ``onnx_int8`` | onnxruntime's static quantization | the same with int8 weights and activations (`quantize.py`) |
| ``onnx_int8_dynamic`` | onnxruntime's dynamic quantization | int8 weights; activations measured in each call |
| ``torchscript_trace`` | ``torch.jit.trace`` | the operators that one example called; deprecated since torch 2.11 |
| ``torchscript_script`` | ``torch.jit.script`` | the compiled program, with branches and loops; also deprecated |
| ``torch_export`` | ``torch.export`` | the graph with its constraints, the successor of the two above |
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pytorch_lightning.core.module import _jit_is_scripting
from torch import Tensor
from torch.export import Dim

from plcourse.errors import UserError, first_line, root_cause
from plcourse.export.card import KEY, Card, Source
from plcourse.export.graph import Program
from plcourse.export.quantize import Calibration, quantize

if TYPE_CHECKING:
    from onnx import ModelProto

Example = tuple[Tensor, ...]


def write(
    format_: str, program: Program, example: Example, path: Path, source: Source, opset: int, calibration: Calibration
) -> Card:
    """Writes a program to a file, and returns the card that the file carries.

    The example consists of inputs of two or more real samples, since exporters treat a batch size of 1 as a constant.
    ``calibration`` are batches of inputs from the training data, for ``onnx_int8``.

    Raises:
        UserError: the exporter cannot write this program; the message quotes its first line.
    """
    onnx_tools = ("onnx", "onnxscript", "onnxruntime") if format_.startswith("onnx") else ()
    versions = {name: version(name) for name in ("torch", "plcourse", *onnx_tools)}
    card = program.card(format_, example, source, versions, opset if onnx_tools else None)
    try:
        with known_warnings_aside():
            if format_ == "torchscript_trace":
                _write_trace(program, example, path, card)
            elif format_ == "torchscript_script":
                _write_script(program, path, card)
            elif format_ == "torch_export":
                exported = torch.export.export(program.graph, example, dynamic_shapes=_free_sizes(program))
                torch.export.save(exported, path, extra_files={KEY: card.to_json()})
            else:
                _save_onnx(_to_onnx(program, example, card), path, card)
                if format_ != "onnx":
                    _save_onnx(quantize(path, card, calibration), path, card)
    except UserError:
        raise
    except Exception as error:  # each exporter has its own errors
        name, cause = type(program.module).__name__, root_cause(error)  # torch.onnx gives the reason as a cause
        raise UserError(f"{name} cannot be written as {format_}: {first_line(cause)}") from error
    return card


def _to_onnx(program: Program, example: Example, card: Card) -> "ModelProto":
    exported = torch.onnx.export(
        program.graph,
        example,
        dynamo=True,
        dynamic_shapes=_free_sizes(program),
        input_names=[port.name for port in card.inputs],
        output_names=[port.name for port in card.outputs],
        opset_version=card.opset,
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
                    f"{type(program.module).__name__} cannot be written as {card.format} with the size '{wanted}' of "
                    f"'{port.name}' free: the exporter froze it at {found.dim_value}"
                )
    return model


def _save_onnx(model: "ModelProto", path: Path, card: Card) -> None:
    """Checks a model, adds its card and saves it as one file."""
    import onnx  # here, because its import is slow

    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets.get("") != card.opset:
        raise UserError(f"--opset {card.opset}: the exporter wrote opset {opsets.get('')}; request that one")
    del model.metadata_props[:]
    entries = {KEY: card.to_json(), "class_names": ",".join(card.class_names), "run": str(card.source.get("run", ""))}
    onnx.helper.set_model_props(model, entries)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _write_trace(program: Program, example: Example, path: Path, card: Card) -> None:
    with torch.inference_mode(False), torch.no_grad():
        torch.jit.save(torch.jit.trace(program.graph, example), path, _extra_files={KEY: card.to_json()})


def _write_script(program: Program, path: Path, card: Card) -> None:
    module = program.module
    trainer, module._trainer = module._trainer, None
    try:  # the compiler reads every attribute, the trainer included, which Lightning allows to be missing meanwhile
        with _jit_is_scripting():
            torch.jit.save(torch.jit.script(program.graph), path, _extra_files={KEY: card.to_json()})
    finally:
        module._trainer = trainer


def _free_sizes(program: Program) -> tuple[dict[int, Dim], ...]:
    """The free dimensions of each input for torch.export; equal names mean the same dimension."""
    inputs = program.signature.inputs
    dims = {free.name: Dim(free.name, min=free.min, max=free.max) for each in inputs for free in each.free.values()}
    return tuple({position: dims[free.name] for position, free in each.free.items()} for each in inputs)


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
