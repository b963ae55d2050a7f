"""The network of lesson 18: an encoder with a classification head and a decoder with skip connections.

Each stage of the encoder halves the resolution. The classifier reads the last features; the decoder upsamples and
adds the features of each stage (U-Net, Ronneberger et al. 2015, figure 1; arXiv 1505.04597).

Shape suffixes: B samples, C channels, H height, W width, K classes, M classes of a pixel.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


class TwoHeads(nn.Module):
    """An encoder with a head for the class of the image, and a decoder with a head for the class of each pixel.

    Args:
        encoder: maps images to a list of features, finest first, and has ``widths``; see `ConvEncoder`.
        num_classes: classes, 2 or more; 0 omits the classifier.
        mask_classes: pixel classes, 2 or more; 0 omits the decoder and its head.
        dropout: fraction of the coarsest features dropped before the classifier during training, 0 to 1.
        recompute: activation checkpointing (Chen et al. 2016, arXiv 1604.06174): the backward pass recomputes the
            decoder and each encoder stage (a foreign encoder as a whole) from its input. It saves memory for one more
            forward pass; the result is the same.
    """

    def __init__(
        self, encoder: Any, num_classes: int, mask_classes: int, dropout: float = 0.0, recompute: bool = False
    ) -> None:
        super().__init__()
        self.encoder, self.recompute = encoder, recompute
        widths = encoder.widths
        self.dropout = nn.Dropout(dropout)
        self.class_head = nn.Linear(widths[-1], num_classes) if num_classes else None
        self.decoder = Decoder(widths, getattr(encoder, "groups", 0)) if mask_classes else None
        self.mask_head = nn.Conv2d(widths[0], mask_classes, 1) if mask_classes else None

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Class scores [B, K] and mask scores [B, M, H, W]; None for an omitted head."""
        features = self._features(image_BCHW)
        class_BK = mask_BMHW = None
        if self.class_head is not None:
            class_BK = self.class_head(self.dropout(features[-1].mean(dim=(2, 3))))
        if self.decoder is not None and self.mask_head is not None:
            mask_BMHW = self.mask_head(self._run(self.decoder, features))
            if mask_BMHW.shape[-2:] != image_BCHW.shape[-2:]:  # the finest features are coarser
                mask_BMHW = functional.interpolate(mask_BMHW, size=image_BCHW.shape[-2:], mode="bilinear")
        return class_BK, mask_BMHW

    def _features(self, image_BCHW: Tensor) -> list[Tensor]:
        if not (self.recompute and isinstance(self.encoder, StagedEncoder)):
            return self._run(self.encoder, image_BCHW)
        features = []
        for stage in self.encoder.stages:
            image_BCHW = self._run(stage, image_BCHW)
            features.append(image_BCHW)
        return features

    def _run(self, part: nn.Module, value: Any) -> Any:
        if self.recompute and self.training:
            return checkpoint(
                part, value, use_reentrant=False, context_fn=lambda: (nullcontext(), _frozen_statistics(part))
            )
        return part(value)


class StagedEncoder(nn.Module):
    """Runs its stages one after the other.

    Attributes:
        stages: the modules to run, the first of them on the image.
        widths: channels of the features of each stage, finest first.
        groups: groups of the group norms, for the decoder too; 0 for batch norms.
        stride: image pixels per pixel of the finest features.
    """

    stages: nn.ModuleList
    widths: tuple[int, ...]
    groups = 0
    stride = 1

    def forward(self, image_BCHW: Tensor) -> list[Tensor]:
        """Maps normalized images [B, C, H, W] to the features of each stage, finest first."""
        features = []
        for stage in self.stages:
            image_BCHW = stage(image_BCHW)
            features.append(image_BCHW)
        return features


class ConvEncoder(StagedEncoder):
    """Two convolutions per stage; each stage after the first halves the resolution.

    Args:
        widths: channels of each stage, 2 stages or more.
        channels: channels of the images.
        groups: groups of the group norms, a divisor of every width; 0 uses batch norms.
    """

    def __init__(self, widths: Sequence[int] = (16, 32, 64, 96), channels: int = 3, groups: int = 0) -> None:
        super().__init__()
        if len(widths) < 2:
            raise ValueError(f"widths={list(widths)} has fewer than 2 stages")
        self.widths, self.groups = tuple(widths), groups
        self.stages = nn.ModuleList()
        for stage, c_out in enumerate(widths):
            first = conv_block(channels, c_out, stride=2 if stage else 1, groups=groups)
            self.stages.append(nn.Sequential(first, conv_block(c_out, c_out, groups=groups)))
            channels = c_out


class TorchvisionEncoder(StagedEncoder):
    """A residual network of torchvision (He et al. 2016) with random weights; nothing is downloaded.

    Args:
        name: the network.
        small_images: whether to drop the stride and the pooling before the first stage, for images of up to about
            64 pixels.
    """

    def __init__(
        self, name: Literal["resnet18", "resnet34", "resnet50"] = "resnet18", small_images: bool = True
    ) -> None:
        super().__init__()
        from torchvision.models import get_model  # 0.5 s that the default encoder does not need

        network: Any = get_model(name, weights=None)
        first: nn.Conv2d = network.conv1
        if small_images:
            first = nn.Conv2d(3, first.out_channels, 3, padding=1, bias=False)
        stem = nn.Sequential(first, network.bn1, network.relu)
        layers = [network.layer1, network.layer2, network.layer3, network.layer4]
        if small_images:
            self.stages = nn.ModuleList([nn.Sequential(stem, layers[0]), *layers[1:]])
        else:
            self.stages = nn.ModuleList([stem, nn.Sequential(network.maxpool, layers[0]), *layers[1:]])
        widths = [network.fc.in_features // 2**step for step in (3, 2, 1, 0)]
        self.widths = tuple(widths if small_images else [first.out_channels, *widths])
        self.stride = 1 if small_images else 2


class Decoder(nn.Module):
    """Upsamples the coarsest features stage by stage and adds the encoder's features of each resolution.

    They are added, as in a feature pyramid (Lin et al. 2017, figure 3; arXiv 1612.03144), not concatenated as in the
    U-Net, which halves the input channels of the 3x3 convolution, where most of the time goes.

    Args:
        widths: channels of the encoder's features, finest first.
        groups: see `ConvEncoder`.
    """

    def __init__(self, widths: Sequence[int], groups: int = 0) -> None:
        super().__init__()
        self.ups, self.steps = nn.ModuleList(), nn.ModuleList()
        for below, width in zip(reversed(widths[1:]), reversed(widths[:-1]), strict=True):
            self.ups.append(nn.Conv2d(below, width, 1, bias=False))
            self.steps.append(conv_block(width, width, groups=groups))

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Maps features, finest first, to features at the finest resolution."""
        x_BCHW = features[-1]
        for up, step, skip_BCHW in zip(self.ups, self.steps, reversed(features[:-1]), strict=True):
            # to the exact size of the skip: doubling does not undo the halving of an odd size
            x_BCHW = step(functional.interpolate(up(x_BCHW), size=skip_BCHW.shape[-2:]) + skip_BCHW)
        return x_BCHW


def conv_block(c_in: int, c_out: int, stride: int = 1, groups: int = 0) -> nn.Sequential:
    """3x3 convolution, group norm of ``groups`` groups (batch norm for 0), ReLU."""
    norm = nn.GroupNorm(groups, c_out) if groups else nn.BatchNorm2d(c_out)
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False), norm, nn.ReLU())


@contextmanager
def _frozen_statistics(part: nn.Module) -> Iterator[None]:
    """Freezes the running statistics of batch norms, which the first pass over the batch has already updated."""
    layers = [layer for layer in part.modules() if isinstance(layer, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    counts = [(count, count.clone()) for layer in layers if (count := layer.num_batches_tracked) is not None]
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for count, before in counts:
            count.copy_(before)
