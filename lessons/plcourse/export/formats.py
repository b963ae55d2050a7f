"""How each format is written: one function per exporter, from a `Program` to a file.

| format | written by | what it is |
|---|---|---|
| ``onnx`` | ``torch.onnx.export(dynamo=True)`` | a graph of ONNX operators, for any ONNX runtime |
| ``onnx_int8`` | onnxruntime's static quantisation | the same with int8 weights and activations (`quantise.py`) |
| ``onnx_int8_dynamic`` | onnxruntime's dynamic quantisation | int8 weights; activations measured in each call |
| ``torchscript_trace`` | ``torch.jit.trace`` | the operators that one example called; deprecated since torch 2.11 |
| ``torchscript_script`` | ``torch.jit.script`` | the program compiled, branches and loops kept; deprecated likewise |
| ``torch_export`` | ``torch.export`` | the graph with its constraints, the successor of the two above |

Exporters import slowly, so they are imported where they are used.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.core.module import _jit_is_scripting
from torch import Tensor

from plcourse.core.errors import UserError, first_line
from plcourse.core.exportable import Dimension
from plcourse.export.card import KEY, Card
from plcourse.export.graph import Program
from plcourse.export.quantise import Calibration, quantise_dynamically, quantise_statically

Example = tuple[Tensor, ...]

_KNOWN_WARNINGS = (
    # torch's own LSTM, when it is exported with a free batch, calls a check that is about to be renamed
    ("_check_is_size will be removed", FutureWarning),
    # an LSTM's list of its own weights is re-assigned while it is traced; they are the weights
    ("The tensor attributes .*_flat_weights.* were assigned during export", UserWarning),
    # an LSTM checks the shape of its input with Python's `if`, which holds for any batch size
    ("Converting a tensor to a Python boolean", Warning),
    # two inputs with one free batch: the second name is the first
    ("The axis name: .* will not be used", UserWarning),
    # torch.onnx looks at the gradients of what it traces when it takes another way after a failure
    (r"The \.grad attribute of a Tensor that is not a leaf Tensor", UserWarning),
    # torch.jit.script looks at every property of the metrics that a module holds, an old one included
    ("This property will be removed in 2.0.0", DeprecationWarning),
    # that TorchScript is deprecated is said in words, once, by the verb
    (r"`torch\.jit\.\w+` is deprecated", FutureWarning),
)


@contextmanager
def known_warnings_aside() -> Iterator[None]:
    """Ignores the warnings of exporters that are understood; any other stays one."""
    with warnings.catch_warnings():
        for message, category in _KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", f"(?s).*{message}", category)
        yield


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
        format_: one of `plcourse.core.export_request.FORMATS`.
        program: what to write.
        example: inputs of real samples, two or more of them, since exporters take a batch of one for a constant.
        path: the file.
        source: where the program comes from; see `Card.source`.
        opset: the version of ONNX's operators.
        calibration: batches of inputs from the training data, for ``onnx_int8``.

    Returns:
        The card that the file carries.

    Raises:
        UserError: the exporter cannot write this program; its own words, in one line.
    """
    tools = {"torch": version("torch"), "plcourse": version("plcourse")}
    if format_.startswith("onnx"):
        tools |= {name: version(name) for name in ("onnx", "onnxscript", "onnxruntime")}
    card = program.card(format_, example, source, tools)
    try:
        with known_warnings_aside():
            return _WRITERS[format_](program, example, path, card, opset, calibration)
    except UserError:
        raise
    except Exception as error:  # each exporter has errors of its own
        cause = error
        while cause.__cause__ is not None:  # torch.onnx reports the steps it took, and the reason as their cause
            cause = cause.__cause__
        raise UserError(
            f"{type(program.module).__name__} cannot be written as {format_}: {first_line(cause)}"
        ) from error


def _onnx(program: Program, example: Example, path: Path, card: Card, opset: int, calibration: Calibration) -> Card:
    card = replace(card, opset=opset)
    exported = torch.onnx.export(
        program.graph,
        example,
        dynamo=True,
        dynamic_shapes=_free_dimensions(program),
        input_names=[port.name for port in card.inputs],
        output_names=[port.name for port in card.outputs],
        opset_version=opset,
        external_data=False,  # one file
        verbose=False,
    )
    assert exported is not None
    model = exported.model_proto
    for port, tensor in zip(card.inputs, model.graph.input, strict=True):
        # where torch cannot keep a size free, its exporter freezes it and says nothing
        for wanted, found in zip(port.shape, tensor.type.tensor_type.shape.dim, strict=True):
            if isinstance(wanted, str) and not found.dim_param:
                raise UserError(
                    f"{type(program.module).__name__} cannot be written as {card.format} with the size '{wanted}' of "
                    f"'{port.name}' free: the exporter froze it at {found.dim_value}"
                )
    _save_onnx(model, path, card)
    return card


def _int8(program: Program, example: Example, path: Path, card: Card, opset: int, calibration: Calibration) -> Card:
    card = _onnx(program, example, path, card, opset, calibration)
    _save_onnx(quantise_statically(path, card, calibration), path, card)
    return card


def _int8_dynamic(
    program: Program, example: Example, path: Path, card: Card, opset: int, calibration: Calibration
) -> Card:
    card = _onnx(program, example, path, card, opset, calibration)
    _save_onnx(quantise_dynamically(path), path, card)
    return card


def _trace(program: Program, example: Example, path: Path, card: Card, opset: int, calibration: Calibration) -> Card:
    with torch.inference_mode(False), torch.no_grad():
        torch.jit.save(torch.jit.trace(program.graph, example), path, _extra_files={KEY: card.to_json()})
    return card


def _script(program: Program, example: Example, path: Path, card: Card, opset: int, calibration: Calibration) -> Card:
    trainer, program.module._trainer = program.module._trainer, None
    try:  # the compiler looks at every attribute of a module, the trainer included, which Lightning then must not miss
        with _jit_is_scripting():
            torch.jit.save(torch.jit.script(program.graph), path, _extra_files={KEY: card.to_json()})
    finally:
        program.module._trainer = trainer
    return card


def _torch_export(
    program: Program, example: Example, path: Path, card: Card, opset: int, calibration: Calibration
) -> Card:
    exported = torch.export.export(program.graph, example, dynamic_shapes=_free_dimensions(program))
    torch.export.save(exported, path, extra_files={KEY: card.to_json()})
    return card


_WRITERS: dict[str, Callable[[Program, Example, Path, Card, int, Calibration], Card]] = {
    "onnx": _onnx,
    "onnx_int8": _int8,
    "onnx_int8_dynamic": _int8_dynamic,
    "torchscript_trace": _trace,
    "torchscript_script": _script,
    "torch_export": _torch_export,
}


def _free_dimensions(program: Program) -> tuple[dict[int, Any], ...]:
    """The free dimensions of each input, as torch.export names them; equal names are one dimension."""
    named: dict[str, Any] = {}

    def dim(free: Dimension) -> Any:
        return named.setdefault(free.name, torch.export.Dim(free.name, min=free.min, max=free.max))

    return tuple({position: dim(free) for position, free in each.free.items()} for each in program.signature.inputs)


def _save_onnx(model: Any, path: Path, card: Card) -> None:
    """Checks a model, gives it its card and saves it as one file."""
    import onnx

    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets.get("") != card.opset:
        raise UserError(f"--opset {card.opset}: the exporter wrote opset {opsets.get('')}; ask for that one")
    del model.metadata_props[:]
    entries = {KEY: card.to_json(), "class_names": ",".join(card.class_names), "run": str(card.source.get("run", ""))}
    onnx.helper.set_model_props(model, entries)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def narrowed(example: Sequence[Tensor], program: Program) -> Example | None:
    """The example at half the size of every free dimension but the batch; None where there is no other."""
    changed, inputs = False, []
    for each, free in zip(example, (port.free for port in program.signature.inputs), strict=True):
        for position, dimension in free.items():
            if position:
                each = each.narrow(position, 0, max(dimension.min, each.shape[position] // 2))
                changed = True
        inputs.append(each.contiguous())
    return tuple(inputs) if changed else None
