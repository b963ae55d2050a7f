"""Generators and discriminators for images and for points.

None of them looks at other samples: group norm takes the place of DCGAN's batch norm. Batch norm would make a sample
depend on its batch, so that two processes are no longer one, gradient penalties (which are per sample) are undefined,
and the sample of a seed changes with the batch size.

Every generator has a ``latent_dim`` and makes latents [B, latent_dim] into samples; every discriminator gives a score
[B], larger meaning more real. Shape suffixes: B samples, C channels, H rows, W columns, Z latent dimensions, P point
dimensions, N frequencies.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ConvGenerator(nn.Module):
    """Transposed convolutions from a latent to an image, after DCGAN (Radford et al. 2016, arXiv 1511.06434).

    Args:
        latent_dim: dimensions of the latents.
        channels: 1 for grey, 3 for colour.
        image_size: height and width, a multiple of 2 to the power of ``len(widths)``.
        widths: channels of each stage, each half as large an image as the next; multiples of ``groups``.
        groups: groups of the group norms (Wu and He 2018).

    Raises:
        ValueError: an image size that cannot be halved so often.
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
        for c_in, c_out in zip(widths, [*widths[1:], channels], strict=True):
            stages += [nn.GroupNorm(groups, c_in), nn.ReLU(), nn.ConvTranspose2d(c_in, c_out, 4, 2, padding=1)]
        self.stages = nn.Sequential(*stages, nn.Tanh())

    def forward(self, latent_BZ: Tensor) -> Tensor:
        """Latents [B, Z] in, images [B, C, H, W] in [-1, 1] out."""
        return self.stages(self.project(latent_BZ).unflatten(1, (-1, self.start, self.start)))


class ConvDiscriminator(nn.Module):
    """Strided convolutions from an image to a score, without any normalisation.

    Args:
        channels: 1 for grey, 3 for colour.
        image_size: height and width, a multiple of 2 to the power of ``len(widths)``.
        widths: channels of each stage, each half as large an image as the one before.

    Raises:
        ValueError: an image size that cannot be halved so often.
    """

    def __init__(self, channels: int = 1, image_size: int = 28, widths: Sequence[int] = (32, 64)) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        c_in = channels
        for c_out in widths:
            stages += [nn.Conv2d(c_in, c_out, 4, 2, padding=1), nn.LeakyReLU(0.2)]
            c_in = c_out
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(c_in * smallest_size(image_size, len(widths)) ** 2, 1)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Images [B, C, H, W] in, scores [B] out."""
        return self.head(self.stages(image_BCHW).flatten(1)).squeeze(1)


class FourierFeatures(nn.Module):
    """Sines and cosines of random projections (Tancik et al. 2020, arXiv 2006.10739), beside the input.

    On their own, fully connected layers learn smooth functions first, and take very long to tell 25 narrow modes apart.

    Args:
        width: dimensions of the input.
        frequencies: random directions; 0 leaves the input as it is.
        scale: standard deviation of the projections' weights, radians per unit of input.
    """

    directions: Tensor

    def __init__(self, width: int, frequencies: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("directions", scale * torch.randn(width, frequencies))
        self.width = width + 2 * frequencies

    def forward(self, x_BP: Tensor) -> Tensor:
        """[B, width] in, [B, width + 2 * frequencies] out."""
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
        """Latents [B, Z] in, points [B, P] out."""
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
        """Points [B, P] in, scores [B] out."""
        return self.layers(self.features(point_BP)).squeeze(1)


def dense(width: int, hidden: Sequence[int], out: int) -> nn.Sequential:
    """Linear layers with leaky ReLUs between them."""
    layers: list[nn.Module] = []
    for wide in hidden:
        layers += [nn.Linear(width, wide), nn.LeakyReLU(0.2)]
        width = wide
    return nn.Sequential(*layers, nn.Linear(width, out))


def smallest_size(image_size: int, halvings: int) -> int:
    """The size of an image after so many halvings.

    Raises:
        ValueError: the size is no multiple of 2**halvings.
    """
    size, rest = divmod(image_size, 2**halvings)
    if rest or not size:
        raise ValueError(
            f"image_size={image_size}: {halvings} widths halve it {halvings} times, so give a multiple of {2**halvings}"
        )
    return size
