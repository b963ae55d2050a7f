"""The preprocessing that an exported file may contain, with its inverse.

Shape suffixes: B samples, C channels, H rows, W columns, D features.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from plcourse.data.resize import Resize, Resizer
from plcourse.errors import UserError


class Pixels(nn.Module):
    """Converts pixels to the images of shape (C, H, W) that the model was trained on, and back.

    Mean and std are those of pixels in [0, 1], per channel. Without a resizing rule only the training size is accepted.
    """

    raw_dtype, ndim = torch.uint8, 4
    factor: Tensor
    shift: Tensor

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], shape: Sequence[int], resize: Resize | None = None
    ) -> None:
        super().__init__()
        mean_C = torch.tensor(mean, dtype=torch.float64)
        std_C = torch.tensor(std, dtype=torch.float64)
        self.register_buffer("factor", (1 / (std_C * 255)).float()[:, None, None])
        self.register_buffer("shift", (-mean_C / std_C).float()[:, None, None])
        self.resizer = nn.Identity() if resize is None else Resizer((int(shape[1]), int(shape[2])), resize)
        self.takes_any_size = resize is not None

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """uint8 [B, C, any, any] in, normalized float32 [B, C, H, W] out."""
        return self.resizer(pixels_BCHW).float() * self.factor + self.shift

    def back(self, image_BCHW: Tensor) -> Tensor:
        """Recovers the uint8 pixels from normalized images, exactly, since they are whole numbers.

        Raises:
            UserError: the images were normalized by another mean and std.
        """
        pixels_BCHW = (image_BCHW - self.shift) / self.factor
        whole_BCHW = pixels_BCHW.round()
        if (pixels_BCHW - whole_BCHW).abs().max() > 0.01 or whole_BCHW.min() < 0 or whole_BCHW.max() > 255:
            raise UserError("--preprocess: the images are not pixels normalized by the mean and std of the data module")
        return whole_BCHW.to(torch.uint8)


class Columns(nn.Module):
    """Converts the numbers of table rows to standardized features, and back, with the mean and std of each feature."""

    raw_dtype, ndim, takes_any_size = torch.float64, 2, False
    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float64))

    def forward(self, numbers_BD: Tensor) -> Tensor:
        """float64 [B, D] in, standardized float32 [B, D] out."""
        return ((numbers_BD - self.mean) / self.std).float()

    def back(self, features_BD: Tensor) -> Tensor:
        """Recovers the numbers from standardized features, up to rounding."""
        return features_BD.double() * self.std + self.mean


def preprocessing_of(data: dict[str, Any], owner: str) -> Pixels | Columns:
    """Builds the preprocessing that a data module's state describes.

    Raises:
        UserError: the state describes none.
    """
    if missing := {"mean", "std"} - data.keys():
        lacking = f"the data module of {owner} has no {', '.join(sorted(missing))} in its state_dict"
        raise UserError(f"--preprocess is for images and tables: {lacking}")
    if "shape" in data:
        return Pixels(data["mean"], data["std"], data["shape"], data.get("resize"))
    return Columns(data["mean"], data["std"])
