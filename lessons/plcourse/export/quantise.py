"""Int8 quantisation: weights per channel, activations in ranges measured on training samples.

A number x is stored as q = round(x / scale) + zero_point in -128..127 (Jacob et al. 2018, arXiv 1712.05877, equation
1). Weights get one scale per output channel, since channels differ by orders of magnitude. Statically quantised
activations need a range in advance, which is that of the calibration samples. In the file every quantised operator is
between a QuantizeLinear and a DequantizeLinear node (QDQ), which any ONNX runtime supports.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from plcourse.errors import UserError
from plcourse.export.card import Card

Calibration = Iterable[Sequence[np.ndarray]]

PRODUCTS = ["Conv", "Gemm", "MatMul"]
# Operators between two convolutions: if all of them are int8, nothing is converted from one convolution to the next.
# Elsewhere, around an LSTM or a layer norm, the conversions cost more than they save.
BETWEEN = ["Add", "Relu", "MaxPool", "GlobalAveragePool", "ReduceMean"]


def quantise_statically(path: Path, card: Card, calibration: Calibration) -> Any:
    """Returns the model of a float32 ONNX file with quantised weights and activations, as a ``ModelProto``.

    Raises:
        UserError: there is no calibration sample.
    """
    from onnxruntime import quantization

    reader: Any = _Reader([port.name for port in card.inputs], calibration)  # not a subclass of CalibrationDataReader
    with tempfile.TemporaryDirectory() as folder, _quiet():
        prepared, quantised = Path(folder) / "prepared.onnx", Path(folder) / "quantised.onnx"
        _prepare(path, prepared)
        convolves = any(node.op_type == "Conv" for node in _loaded(prepared).graph.node)
        quantization.quantize_static(
            str(prepared),
            str(quantised),
            reader,
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=PRODUCTS + BETWEEN * convolves,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=True,  # 7-bit weights: without VNNI, two products are added in 16 bits, which may overflow
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
        if not reader.read:
            raise UserError("onnx_int8: the training split has no sample to calibrate with")
        return _loaded(quantised)


def quantise_dynamically(path: Path) -> Any:
    """Returns the model with quantised weights; activations get their range in every call.

    Only matrix products and LSTMs are converted, because onnxruntime computes a dynamically quantised convolution
    slower than a float32 one.
    """
    from onnxruntime import quantization

    with tempfile.TemporaryDirectory() as folder, _quiet():
        prepared, quantised = Path(folder) / "prepared.onnx", Path(folder) / "quantised.onnx"
        _prepare(path, prepared)
        quantization.quantize_dynamic(
            str(prepared),
            str(quantised),
            op_types_to_quantize=["MatMul", "Gemm", "LSTM", "Attention"],
            weight_type=quantization.QuantType.QInt8,
            reduce_range=True,
        )
        return _loaded(quantised)


def _prepare(path: Path, prepared: Path) -> None:
    """Folds and annotates a model for onnxruntime's quantiser.

    Symbolic shape inference is skipped: it fails for some models, and the exporter has written the shapes already.
    """
    from onnxruntime import quantization

    quantization.quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)


class _Reader:
    """Passes calibration batches to onnxruntime, one dict of inputs at a time."""

    def __init__(self, names: list[str], batches: Calibration) -> None:
        self.names, self.read = names, 0
        self._batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Returns the next batch by input name; None after the last."""
        batch = next(self._batches, None)
        if batch is None:
            return None
        self.read += len(batch[0])
        return dict(zip(self.names, batch, strict=True))


def _loaded(path: Path) -> Any:
    import onnx

    return onnx.load(path)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the root logger, on which onnxruntime's quantiser gives advice that was followed already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
