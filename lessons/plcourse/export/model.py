"""Lesson 17: a trained model leaves Python, and is tested to be still the same model.

The idea: an exporter turns the program ``forward`` into a graph, and another runtime executes that graph with different
kernels. Nothing guarantees that the two agree, so an export is a claim to test: on real samples, at several batch
sizes, with the full test metric (`verify.py`). Int8 quantization replaces x by ``scale * (q - zero_point)`` with q in
-128..127 (Jacob et al. 2018, arXiv 1712.05877, equation 1), and its cost is measured in the same way.

    plcourse fit -c export/classifier --then test,export --format onnx,onnx_int8 --preprocess --probabilities

This file has the two networks that the lesson exports.

Shapes: B samples, C channels, H rows, W columns, K classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class _ConvBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, and a shortcut around them.

    An exporter folds a batch norm into the weights of the convolution before it, so that it costs nothing. A group
    norm, whose statistics depend on the sample, has to stay.
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), nn.BatchNorm2d(c_out))
        self.conv2 = nn.Sequential(nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False), nn.BatchNorm2d(c_out))
        same = stride == 1 and c_in == c_out
        shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))
        self.shortcut = nn.Identity() if same else shortcut

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Features in, features out, with the resolution divided by ``stride``."""
        return torch.relu(self.conv2(torch.relu(self.conv1(x_BCHW))) + self.shortcut(x_BCHW))


class FoldableNet(nn.Module):
    """A small residual network of convolutions and batch norms, which export and quantize well.

    Args:
        channels: image channels, 1 or 3.
        num_classes: number of classes, 2 or more.
        widths: channels of each stage; every stage after the first halves the resolution.
        blocks: residual blocks per stage, 1 or more.
    """

    def __init__(
        self, channels: int = 1, num_classes: int = 10, widths: Sequence[int] = (16, 32, 64), blocks: int = 1
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]))
        stages: list[nn.Module] = []
        c_in = widths[0]
        for stage, c_out in enumerate(widths):
            for block in range(blocks):
                stages.append(_ConvBlock(c_in, c_out, stride=2 if stage and not block else 1))
                c_in = c_out
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(c_in, num_classes)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Normalized images [B, C, H, W] in, class scores [B, K] out."""
        return self.head(self.stages(torch.relu(self.stem(image_BCHW))).mean(dim=(2, 3)))


class RowLSTM(nn.Module):
    """Reads an image row by row, as a sequence of H vectors, and classifies it by the last state.

    Args:
        row_features: numbers per row, columns times channels.
        num_classes: number of classes, 2 or more.
        hidden: size of the state, 1 or more.
        layers: number of layers, 1 or more.
    """

    def __init__(self, row_features: int = 28, num_classes: int = 10, hidden: int = 128, layers: int = 1) -> None:
        super().__init__()
        self.lstm = nn.LSTM(row_features, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, num_classes)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Normalized images [B, C, H, W] in, class scores [B, K] out."""
        rows_BHF = image_BCHW.transpose(1, 2).flatten(2)
        states_BHF, _ = self.lstm(rows_BHF)
        return self.head(states_BHF[:, -1])
