"""Int8 quantization: weights per channel, activations in ranges measured on training samples.

A number x is stored as q = round(x / scale) + zero_point in -128..127 (Jacob et al. 2018, arXiv 1712.05877, equation
1). Weights get one scale per output channel, since channels differ by orders of magnitude. Statically quantized
activations need a range in advance, which is that of the calibration samples. In the file every quantized operator is
between a QuantizeLinear and a DequantizeLinear node (QDQ), which any ONNX runtime supports.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from plcourse.errors import UserError
from plcourse.export.card import Card

if TYPE_CHECKING:
    from onnx import ModelProto

Calibration = Iterable[Sequence[np.ndarray]]

PRODUCTS = ["Conv", "Gemm", "MatMul"]
# Operators between two convolutions: if all of them are int8, nothing is converted from one convolution to the next.
# Elsewhere, around an LSTM or a layer norm, the conversions cost more than they save.
BETWEEN = ["Add", "Relu", "MaxPool", "GlobalAveragePool", "ReduceMean"]
# onnxruntime computes a dynamically quantized convolution more slowly than a float32 one, so convolutions stay float.
DYNAMIC = ["MatMul", "Gemm", "LSTM", "Attention"]


def quantize(path: Path, card: Card, calibration: Calibration) -> "ModelProto":
    """Quantizes a float32 ONNX file into the format of its card.

    ``onnx_int8`` takes the range of activations from the calibration batches, ``onnx_int8_dynamic`` measures it in
    every call.

    Raises:
        UserError: there is no calibration sample.
    """
    import onnx
    from onnxruntime import quantization

    with tempfile.TemporaryDirectory() as folder, _quiet():
        prepared, quantized = f"{folder}/prepared.onnx", f"{folder}/quantized.onnx"
        # symbolic shape inference fails for some models, and the exporter has written the shapes already
        quantization.quant_pre_process(str(path), prepared, skip_symbolic_shape=True)
        # 7-bit weights: without VNNI, two products are added in 16 bits, which may overflow
        weights: dict[str, Any] = {"weight_type": quantization.QuantType.QInt8, "reduce_range": True}
        if card.format == "onnx_int8_dynamic":
            quantization.quantize_dynamic(prepared, quantized, op_types_to_quantize=DYNAMIC, **weights)
            return onnx.load(quantized)
        names = [port.name for port in card.inputs]
        feeds = [dict(zip(names, batch, strict=True)) for batch in calibration]
        if not feeds:
            raise UserError("onnx_int8: the training split has no sample to calibrate with")
        reader: Any = SimpleNamespace(get_next=partial(next, iter(feeds), None))  # as a `CalibrationDataReader`
        convolves = any(node.op_type == "Conv" for node in onnx.load(prepared).graph.node)
        quantization.quantize_static(
            prepared,
            quantized,
            reader,
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=PRODUCTS + BETWEEN * convolves,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            **weights,
        )
        return onnx.load(quantized)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the root logger, on which onnxruntime's quantizer gives advice that was followed already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
