"""A model as an ONNX file.

The file gives the right answer for the example that it was exported with, and fails for any other number of samples.
Mend it, so that it takes any batch.
"""

from pathlib import Path

import torch
from torch import Tensor, nn


def export(model: nn.Module, example_BF: Tensor, path: Path) -> None:
    """Writes a model as ONNX; its input is called `input` and its output `output`.

    Args:
        model: takes [B, F], gives [B, K], for any B of 1 or more.
        example_BF: something that it takes.
        path: the file.
    """
    torch.onnx.export(
        model.eval(), (example_BF,), path, input_names=["input"], output_names=["output"], dynamo=True, verbose=False
    )
