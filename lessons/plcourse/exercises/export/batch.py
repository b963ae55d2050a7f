"""A model as an ONNX file.

The file gives the right answer for the example that it was exported with, and fails for any other number of samples.
Fix the function, so that the file takes any batch size.
"""

from pathlib import Path

import torch
from torch import Tensor, nn


def export(model: nn.Module, example_BF: Tensor, path: Path) -> None:
    """Writes a model as ONNX, with an input named `input` and an output named `output`.

    Args:
        model: maps [B, F] to [B, K] for any B of 1 or more.
        example_BF: an example of its input.
        path: the file.
    """
    torch.onnx.export(
        model.eval(), (example_BF,), path, input_names=["input"], output_names=["output"], dynamo=True, verbose=False
    )
