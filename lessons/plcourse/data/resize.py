"""Resizes images of any size to the model's size, by the same rules in data modules and in exported graphs.

| rule | what happens | what is lost |
|---|---|---|
| ``crop`` | scaled to cover the size, then cropped at the center | the margins |
| ``stretch`` | each axis scaled separately | the proportions |
| ``pad`` | scaled to fit into the size, the rest black | nothing |

`resized` does this to a file with Pillow, and `Resizer` to a tensor with operators that every exporter supports. Both
give the same pixels, bit for bit. Pillow's bilinear filter is a product with one matrix per axis: a triangle as wide as
the scale, whose weights are rounded to 22 bits; each of the two products is rounded to whole gray levels. In float64
these products are exact. The columns always come first here, because Pillow 13 and later choose the order by the shape,
and the order decides how halves are rounded.

Shape suffixes: B batch, C channels, H height, W width, N the output's pixels along an axis, P the input's.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

Resize = Literal["crop", "stretch", "pad"]
ImageSize = int | tuple[int, int]

_CHUNK = 256  # images held as float64 at a time


class Window(NamedTuple):
    """The part of a resized image that shows the input, in pixels; the rest is padding."""

    top: int
    left: int
    height: int
    width: int


def size_of(image_size: ImageSize | Sequence[int]) -> tuple[int, int]:
    """Height and width from ``image_size``, which is one number for a square or both; else a ValueError."""
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"image_size={image_size}: give 1 pixel or more, or [height, width], or leave it out")
    return size[0], size[1]


def check_resize(rule: str, masks: bool = False) -> None:
    """Raises a ValueError for an unknown rule, and for ``crop`` if masks must be scaled back to the input's size."""
    if masks and rule == "crop":
        raise ValueError(
            "resize='crop' cuts off the margins, but a mask must cover the whole input; give 'pad', which keeps the "
            "proportions, or 'stretch'"
        )
    if rule not in get_args(Resize):
        raise ValueError(f"resize={rule!r}: give {', '.join(map(repr, get_args(Resize)[masks:]))}")


def window_of(height: int, width: int, size: tuple[int, int], rule: Resize) -> Window:
    """The place of an input of this height and width in its resized image."""
    if rule != "pad":
        return Window(0, 0, *size)
    rows, columns = size
    inner_height = min(rows, max(1, (2 * height * columns + width) // (2 * width)))  # rounded half up
    inner_width = min(columns, max(1, (2 * width * rows + height) // (2 * height)))
    return Window((rows - inner_height) // 2, (columns - inner_width) // 2, inner_height, inner_width)


def resized(image: Image.Image, size: tuple[int, int], rule: Resize) -> Image.Image:
    """Resizes an image of mode ``L`` or ``RGB`` to the given height and width."""
    if (image.height, image.width) == size:
        return image
    rows, columns = size
    if rule == "pad":
        window = window_of(image.height, image.width, size, rule)
        padded = Image.new(image.mode, (columns, rows))
        padded.paste(_scaled(image, window[2:]), (window.left, window.top))
        return padded
    return _scaled(image, size, cut=rule == "crop")


def _scaled(image: Image.Image, size: tuple[int, int], cut: bool = False) -> Image.Image:
    rows, columns = size
    height, width = (image.height, image.width)
    top = left = 0.0
    if cut:
        kept_height = min(image.height, image.width * rows / columns)
        kept_width = min(image.width, image.height * columns / rows)
        top, left = (image.height - kept_height) * 0.5, (image.width - kept_width) * 0.5
        height, width = kept_height, kept_width
    bilinear = Image.Resampling.BILINEAR
    image = image.resize((columns, image.height), bilinear, (left, 0, left + width, image.height))
    return image.resize((columns, rows), bilinear, (0, top, columns, top + height))


def in_size_of_input(scores_MHW: Tensor, size: Sequence[int], window: Sequence[int]) -> Tensor:
    """The scores of an input's pixels [M, height, width], from those of its resized image, where `window` shows it."""
    top, left, rows, columns = window
    scores_MHW = scores_MHW[:, top : top + rows, left : left + columns]
    if tuple(scores_MHW.shape[-2:]) == tuple(size):
        return scores_MHW
    return functional.interpolate(scores_MHW[None], size=tuple(size), mode="bilinear")[0]


class Resizer(nn.Module):
    """`resized` on tensors, for graphs that take images of any height and width.

    Args:
        size: height and width of the result.
        rule: one of `Resize`.
    """

    def __init__(self, size: tuple[int, int], rule: Resize) -> None:
        super().__init__()
        self.rows, self.columns = size
        self.rule: str = rule

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """uint8 [B, C, any, any] in; whole numbers from 0 to 255 out, float32 [B, C, rows, columns]."""
        row_P, column_P = _positions(pixels_BCHW)
        height, width = row_P[-1] + 1, column_P[-1] + 1  # as tensors, which tracing does not make constants
        top, left = torch.zeros_like(height), torch.zeros_like(width)
        bottom, right = height, width
        if self.rule == "crop":
            # only whole numbers as constants, because exporters write fractions in float32
            kept_height = torch.minimum(height, width * self.rows / self.columns)
            kept_width = torch.minimum(width, height * self.columns / self.rows)
            top, left = (height - kept_height) * 0.5, (width - kept_width) * 0.5
            bottom, right = top + kept_height, left + kept_width
        first_row, first_column, rows, columns = window_in_graph(height, width, self.rows, self.columns, self.rule)
        row_NP = _weights(row_P, top, bottom, self.rows, first_row, rows)
        column_NP = _weights(column_P, left, right, self.columns, first_column, columns)
        image_BCHW = torch.floor(torch.matmul(pixels_BCHW.double(), column_NP.t()) / 4194304.0 + 0.5)
        return torch.floor(torch.matmul(row_NP, image_BCHW) / 4194304.0 + 0.5).float()


class Unresizer(nn.Module):
    """Scales the scores of a resized image's pixels back to the size of the input, without the padding.

    Scores are interpolated bilinearly between the centers of pixels, as ``torch.nn.functional.interpolate`` does.

    Args:
        rule: the rule by which the image was resized, not ``crop``.
    """

    def __init__(self, rule: Resize) -> None:
        super().__init__()
        check_resize(rule, masks=True)
        self.rule: str = rule

    def forward(self, scores_BMHW: Tensor, pixels_BCHW: Tensor) -> Tensor:
        """Scores [B, M, rows, columns] and their input [B, C, H, W] in; scores [B, M, H, W] out."""
        row_P, column_P = _positions(pixels_BCHW)
        first_row, first_column, rows, columns = window_in_graph(
            row_P[-1] + 1, column_P[-1] + 1, scores_BMHW.shape[2], scores_BMHW.shape[3], self.rule
        )
        row_PN = _between(row_P, scores_BMHW.shape[2], first_row, rows)
        column_PN = _between(column_P, scores_BMHW.shape[3], first_column, columns)
        # in float64, which is never quantized
        return torch.matmul(torch.matmul(row_PN, scores_BMHW.double()), column_PN.t()).float()


def window_in_graph(
    height: Tensor, width: Tensor, rows: int, columns: int, rule: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`window_of` on float64 scalars, in which quotients of whole numbers are rounded correctly."""
    if rule != "pad":
        zero = torch.zeros_like(height)
        return zero, zero, zero + rows, zero + columns
    inner_height = torch.clamp(torch.floor((2 * height * columns + width) / (2 * width)), min=1.0, max=float(rows))
    inner_width = torch.clamp(torch.floor((2 * width * rows + height) / (2 * height)), min=1.0, max=float(columns))
    first_row, first_column = torch.floor((rows - inner_height) / 2), torch.floor((columns - inner_width) / 2)
    return first_row, first_column, inner_height, inner_width


def _positions(pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers of the rows and of the columns, from 0, in float64."""
    rows, columns = (torch.arange(n, dtype=torch.float64, device=pixels_BCHW.device) for n in pixels_BCHW.shape[2:])
    return rows, columns


def _weights(position_P: Tensor, start: Tensor, end: Tensor, n: int, first: Tensor, count: Tensor) -> Tensor:
    """Pillow's weights of the input's pixels in each of `n` output pixels along one axis, times 2**22: float64 [N, P].

    The part of the input from `start` to `end` is shown by `count` output pixels from `first` on; the others are black.
    """
    start, end = start.float(), end.float()  # as in Pillow
    scale = (end - start).double() / count
    own_N = torch.arange(n, dtype=torch.float64, device=position_P.device) - first
    center_N = start.double() + (own_N + 0.5) * scale
    distance_NP = (position_P[None, :] - center_N[:, None] + 0.5) * (1.0 / torch.clamp(scale, min=1.0))
    weight_NP = torch.clamp(1.0 - distance_NP.abs(), min=0.0)
    weight_NP = weight_NP / weight_NP.sum(dim=1, keepdim=True).clamp(min=1e-30)
    shown_N = (own_N >= 0) & (own_N < count)
    return torch.floor(weight_NP * 4194304.0 + 0.5) * shown_N[:, None]


def _between(position_P: Tensor, n: int, first: Tensor, count: Tensor) -> Tensor:
    """Weights of the two nearest of `n` pixels for each input pixel; `count` of them, from `first`, show the input."""
    at_P = (position_P + 0.5) * (count / (position_P[-1] + 1)) - 0.5
    at_P = torch.minimum(torch.clamp(at_P, min=0.0), count - 1) + first
    own_N = torch.arange(n, dtype=torch.float64, device=position_P.device)
    return torch.clamp(1.0 - (at_P[:, None] - own_N[None, :]).abs(), min=0.0)


def resized_pixels(pixels_BCHW: Tensor, size: tuple[int, int], rule: Resize) -> Tensor:
    """`resized` for a tensor of images: uint8 [B, C, H, W] to uint8 [B, C, rows, columns]."""
    if tuple(pixels_BCHW.shape[2:]) == size:
        return pixels_BCHW
    resizer = Resizer(size, rule)
    return torch.cat([resizer(part).to(torch.uint8) for part in pixels_BCHW.split(_CHUNK)])


def as_image(pixels_CHW: Tensor) -> Image.Image:
    """uint8 [1 or 3, H, W] as an image of mode ``L`` or ``RGB``."""
    pixels_HWC = np.ascontiguousarray(pixels_CHW.permute(1, 2, 0).numpy())
    return Image.fromarray(pixels_HWC[:, :, 0] if len(pixels_CHW) == 1 else pixels_HWC)


def as_pixels(image: Image.Image) -> Tensor:
    """The reverse: uint8 [C, H, W]."""
    return torch.from_numpy(np.array(image)).view(image.height, image.width, -1).permute(2, 0, 1)
