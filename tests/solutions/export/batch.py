"""A solution of the exercise export/batch."""

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
        model.eval(),
        (example_BF,),
        path,
        input_names=["input"],
        output_names=["output"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
