"""Int8: weights per channel, activations by ranges that training samples have shown.

A number x is stored as q = round(x / scale) + zero_point in -128..127 (Jacob et al. 2018, arXiv 1712.05877, equation
1). Weights get one scale per output channel, since channels differ by orders of magnitude. Statically quantised
activations need a range before anything runs: the extremes over the calibration samples. In the file every quantised
operator stands between a QuantizeLinear and a DequantizeLinear (QDQ), which any ONNX runtime knows.
"""

import logging
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from plcourse.core.errors import UserError
from plcourse.export.card import Card

Calibration = Iterable[Sequence[np.ndarray]]

PRODUCTS = ["Conv", "Gemm", "MatMul"]
# What may stand between two convolutions: where all of it is int8, nothing is converted from one to the next.
# Elsewhere, around an LSTM or a layer norm, the conversions cost more than they save.
BETWEEN = ["Add", "Relu", "MaxPool", "GlobalAveragePool", "ReduceMean"]


def quantise_statically(path: Path, card: Card, calibration: Calibration) -> Any:
    """The model in ``path`` with int8 weights and activations.

    Args:
        path: an ONNX file, float32.
        card: names its inputs.
        calibration: batches of inputs from the training data.

    Returns:
        The quantised ``ModelProto``.

    Raises:
        UserError: there was no calibration sample.
    """
    from onnxruntime import quantization

    reader: Any = _Reader([port.name for port in card.inputs], calibration)  # the base has nothing to inherit
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
            reduce_range=True,  # 7 bits of weight: processors without VNNI add two products in 16 bits and overflow
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )
        if not reader.read:
            raise UserError("onnx_int8: there is no training sample to calibrate with")
        return _loaded(quantised)


def quantise_dynamically(path: Path) -> Any:
    """The model in ``path`` with int8 weights, whose activations get their range anew in every call.

    Only products with a matrix and LSTMs are converted: onnxruntime computes a dynamically quantised convolution
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
    """Folds and annotates a model, as onnxruntime's quantiser wants it.

    The exporter has written the shapes already, and onnxruntime's symbolic inference gives up on some of them.
    """
    from onnxruntime import quantization

    quantization.quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)


class _Reader:
    """Hands calibration batches to onnxruntime, one dict of inputs at a time."""

    def __init__(self, names: list[str], batches: Calibration) -> None:
        self.names, self.read = names, 0
        self._batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch by input name, None after the last."""
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
    """onnxruntime's quantiser gives advice on the root logger that it has already been followed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
