"""The networks of lesson 12, which other lessons use too: a small residual network and a perceptron.

Shapes: B samples of the batch, C channels, H rows, W columns, K classes.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them (He et al. 2016, figure 2; arXiv 1512.03385).

    Args:
        c_in: input channels, 1 or more.
        c_out: output channels, a multiple of ``groups``.
        stride: 1 keeps the resolution, 2 halves it.
        groups: groups of the group norm (Wu and He 2018); 0 uses batch norm. A group norm sees one sample at a time, so
            that two processes train the same model as one.
    """

    def __init__(self, c_in: int, c_out: int, stride: int = 1, groups: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(groups, c_out) if groups else nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(groups, c_out) if groups else nn.BatchNorm2d(c_out)
        same = stride == 1 and c_in == c_out
        self.shortcut = nn.Identity() if same else nn.Conv2d(c_in, c_out, 1, stride, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Maps [B, c_in, H, W] to [B, c_out, H / stride, W / stride]."""
        y_BCHW = functional.relu(self.norm1(self.conv1(x_BCHW)))
        y_BCHW = self.norm2(self.conv2(y_BCHW))
        return functional.relu(y_BCHW + self.shortcut(x_BCHW))


class ResNet(nn.Module):
    """A small residual network for small images.

    Args:
        channels: channels of the images, 1 or 3.
        num_classes: classes, 2 or more.
        widths: channels of each stage; every stage after the first halves the resolution.
        blocks: residual blocks per stage, 1 or more.
        dropout: fraction of the last features dropped in training, 0 to 1.
        groups: groups of the group norms, a divisor of every width; 0 uses batch norms.
        recompute: keep only the input of each block for the backward pass and recompute the rest (activation
            checkpointing, Chen et al. 2016, arXiv 1604.06174): less memory for one more forward pass.
    """

    def __init__(
        self,
        channels: int = 1,
        num_classes: int = 10,
        widths: Sequence[int] = (16, 32, 64),
        blocks: int = 1,
        dropout: float = 0.0,
        groups: int = 8,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.stem = nn.Conv2d(channels, widths[0], 3, padding=1, bias=False)
        stages = nn.Sequential()
        c_in = widths[0]
        for stage, c_out in enumerate(widths):
            for block in range(blocks):
                stages.append(ResidualBlock(c_in, c_out, stride=2 if stage and not block else 1, groups=groups))
                c_in = c_out
        self.stages = stages
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(c_in, num_classes)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Maps normalized images [B, C, H, W] to class scores [B, K]."""
        x_BCHW = self.stem(image_BCHW)
        for block in self.stages:
            if self.recompute and self.training:
                x_BCHW = checkpoint(block, x_BCHW, use_reentrant=False)
            else:
                x_BCHW = block(x_BCHW)
        return self.head(self.dropout(x_BCHW.mean(dim=(2, 3))))


class MLP(nn.Module):
    """Fully connected layers on the pixels, for the fastest runs.

    Args:
        in_features: pixels times channels of an image.
        num_classes: classes, 2 or more.
        hidden: width of each hidden layer.
        dropout: fraction of the hidden features dropped in training, 0 to 1.
    """

    def __init__(
        self, in_features: int = 64, num_classes: int = 10, hidden: Sequence[int] = (128,), dropout: float = 0.0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for width in hidden:
            layers += [nn.Linear(in_features, width), nn.ReLU(), nn.Dropout(dropout)]
            in_features = width
        self.layers = nn.Sequential(*layers, nn.Linear(in_features, num_classes))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Maps normalized images [B, C, H, W] to class scores [B, K]."""
        return self.layers(image_BCHW)
