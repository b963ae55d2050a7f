"""Generators and discriminators for images and for points.

They use group norm instead of DCGAN's batch norm. Batch norm makes a sample depend on its batch: two processes would
train a different model than one, gradient penalties per sample would be undefined, and the sample of a seed would
change with the batch size.

Every generator has a ``latent_dim`` and maps latents [B, latent_dim] to samples; every discriminator maps samples to
scores [B], where larger means more real.

Shape suffixes: B samples, C channels, H rows, W columns, Z latent dimensions, P point dimensions, N frequencies.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class ConvGenerator(nn.Module):
    """Transposed convolutions from a latent to an image, after DCGAN (Radford et al. 2016, arXiv 1511.06434).

    Args:
        latent_dim: dimensions of the latents.
        channels: 1 for gray, 3 for color.
        image_size: height and width, a multiple of ``2 ** len(widths)``.
        widths: channels of each stage, multiples of ``groups``; every stage doubles the image size.
        groups: groups of the group norms (Wu and He 2018).

    Raises:
        ValueError: ``image_size`` is not such a multiple.
    """

    def __init__(
        self,
        latent_dim: int = 64,
        channels: int = 1,
        image_size: int = 28,
        widths: Sequence[int] = (64, 32),
        groups: int = 8,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.start = smallest_size(image_size, len(widths))
        self.project = nn.Linear(latent_dim, widths[0] * self.start**2)
        stages: list[nn.Module] = []
        for c_in, c_out in pairwise([*widths, channels]):
            stages += [nn.GroupNorm(groups, c_in), nn.ReLU(), nn.ConvTranspose2d(c_in, c_out, 4, 2, padding=1)]
        self.stages = nn.Sequential(*stages, nn.Tanh())

    def forward(self, latent_BZ: Tensor) -> Tensor:
        """Maps latents [B, Z] to images [B, C, H, W] in [-1, 1]."""
        return self.stages(self.project(latent_BZ).unflatten(1, (-1, self.start, self.start)))


class ConvDiscriminator(nn.Module):
    """Strided convolutions from an image to a score, without normalization.

    Args:
        channels: 1 for gray, 3 for color.
        image_size: height and width, a multiple of ``2 ** len(widths)``.
        widths: channels of each stage; every stage halves the image size.

    Raises:
        ValueError: ``image_size`` is not such a multiple.
    """

    def __init__(self, channels: int = 1, image_size: int = 28, widths: Sequence[int] = (32, 64)) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for c_in, c_out in pairwise([channels, *widths]):
            stages += [nn.Conv2d(c_in, c_out, 4, 2, padding=1), nn.LeakyReLU(0.2)]
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear([channels, *widths][-1] * smallest_size(image_size, len(widths)) ** 2, 1)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Maps images [B, C, H, W] to scores [B]."""
        return self.head(self.stages(image_BCHW).flatten(1)).squeeze(1)


class FourierFeatures(nn.Module):
    """The input with sines and cosines of random projections (Tancik et al. 2020, arXiv 2006.10739) appended.

    Without them, fully connected layers learn smooth functions first and take long to separate 25 narrow modes.

    Args:
        width: dimensions of the input.
        frequencies: number of random directions; 0 leaves the input unchanged.
        scale: standard deviation of the projection weights, in radians per unit of input.
    """

    directions: Tensor

    def __init__(self, width: int, frequencies: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("directions", scale * torch.randn(width, frequencies))
        self.width = width + 2 * frequencies

    def forward(self, x_BP: Tensor) -> Tensor:
        """Maps [B, width] to [B, width + 2 * frequencies]."""
        angle_BN = x_BP @ self.directions
        return torch.cat([x_BP, angle_BN.sin(), angle_BN.cos()], dim=1)


class PointGenerator(nn.Module):
    """Fully connected layers on Fourier features, from a latent to a point.

    Args:
        latent_dim: dimensions of the latents.
        point_dim: dimensions of the points.
        hidden: width of each hidden layer.
        frequencies: Fourier features of the latent, 0 for none.
        scale: see `FourierFeatures`.
    """

    def __init__(
        self,
        latent_dim: int = 2,
        point_dim: int = 2,
        hidden: Sequence[int] = (128, 128),
        frequencies: int = 64,
        scale: float = 3.0,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.features = FourierFeatures(latent_dim, frequencies, scale)
        self.layers = dense(self.features.width, hidden, point_dim)

    def forward(self, latent_BZ: Tensor) -> Tensor:
        """Maps latents [B, Z] to points [B, P]."""
        return self.layers(self.features(latent_BZ))


class PointDiscriminator(nn.Module):
    """Fully connected layers on Fourier features, from a point to a score.

    Args:
        point_dim: dimensions of the points.
        hidden: width of each hidden layer.
        frequencies: Fourier features of the point, 0 for none.
        scale: see `FourierFeatures`.
    """

    def __init__(
        self, point_dim: int = 2, hidden: Sequence[int] = (128, 128), frequencies: int = 64, scale: float = 2.0
    ) -> None:
        super().__init__()
        self.features = FourierFeatures(point_dim, frequencies, scale)
        self.layers = dense(self.features.width, hidden, 1)

    def forward(self, point_BP: Tensor) -> Tensor:
        """Maps points [B, P] to scores [B]."""
        return self.layers(self.features(point_BP)).squeeze(1)


def dense(width: int, hidden: Sequence[int], out: int) -> nn.Sequential:
    """Linear layers with leaky ReLUs in between."""
    layers: list[nn.Module] = []
    for before, after in pairwise([width, *hidden]):
        layers += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Linear([width, *hidden][-1], out))


def smallest_size(image_size: int, halvings: int) -> int:
    """The image size after ``halvings`` halvings; a ValueError if it is not divisible."""
    size, rest = divmod(image_size, 2**halvings)
    if rest or not size:
        raise ValueError(f"image_size is {image_size}; with {halvings} widths it must be a multiple of {2**halvings}")
    return size
