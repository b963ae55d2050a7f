"""The program that is exported: the model, with what stands before and after it where that was asked for.

Shape suffixes: B samples, C channels, H rows, W columns.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from plcourse.core.errors import UserError
from plcourse.core.exportable import Dimension, Exportable, Input
from plcourse.export.card import Card, Port, flatten

FREE_SIZE = {2: Dimension("height"), 3: Dimension("width")}


class Pixels(nn.Module):
    """From pixels to what the model was trained on, and back.

    Args:
        mean: per channel, of pixels in [0, 1].
        std: the same.
        shape: channels, rows and columns of the training images.
    """

    factor: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], shape: Sequence[int]) -> None:
        super().__init__()
        mean_C = torch.tensor(mean, dtype=torch.float64)
        std_C = torch.tensor(std, dtype=torch.float64)
        self.register_buffer("factor", (1 / (std_C * 255)).float()[:, None, None])
        self.register_buffer("shift", (-mean_C / std_C).float()[:, None, None])
        self.height, self.width = int(shape[1]), int(shape[2])

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """uint8 [B, C, any, any] in, normalised float32 [B, C, H, W] out."""
        size = (self.height, self.width)
        image_BCHW = functional.interpolate(pixels_BCHW.float(), size=size, mode="bilinear", antialias=True)
        return image_BCHW * self.factor + self.shift

    def back(self, image_BCHW: Tensor) -> Tensor:
        """The pixels, uint8, that normalised images were made from: exactly, since they were whole numbers.

        Raises:
            UserError: the images were normalised otherwise.
        """
        pixels_BCHW = (image_BCHW - self.shift) / self.factor
        whole_BCHW = pixels_BCHW.round()
        if (pixels_BCHW - whole_BCHW).abs().max() > 0.01 or whole_BCHW.min() < 0 or whole_BCHW.max() > 255:
            raise UserError("--preprocess: the images are not pixels normalised by the mean and std of the data module")
        return whole_BCHW.to(torch.uint8)


class WithEnds(nn.Module):
    """A model of one input and one output with preprocessing before it and a softmax after it, each on request.

    Args:
        model: the model.
        pixels: the preprocessing, None for none.
        softmax_dim: the dimension of the classes, None for no softmax.
    """

    def __init__(self, model: nn.Module, pixels: Pixels | None, softmax_dim: int | None) -> None:
        super().__init__()
        self.pixels = pixels if pixels is not None else nn.Identity()
        self.model = model
        self.softmax = nn.Softmax(softmax_dim) if softmax_dim is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """What the exported file computes."""
        return self.softmax(self.model(self.pixels(x)))


class WithSeveralEnds(nn.Module):
    """The same for a model that returns a tuple.

    Args:
        model: the model.
        pixels: the preprocessing, None for none.
        softmax_dims: of each output, the dimension of the classes; None for no softmax.
    """

    def __init__(self, model: nn.Module, pixels: Pixels | None, softmax_dims: Sequence[int | None]) -> None:
        super().__init__()
        self.pixels = pixels if pixels is not None else nn.Identity()
        self.model = model
        self.ends = nn.ModuleList(nn.Identity() if dim is None else nn.Softmax(dim) for dim in softmax_dims)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the exported file computes."""
        outputs = flatten(self.model(self.pixels(x)))
        return tuple(end(each) for end, each in zip(self.ends, outputs, strict=True))


class Program:
    """A trained module, ready to be exported: the graph, an example, and the way of a batch into it and back.

    Args:
        module: the trained module, in evaluation mode on the CPU.
        exportable: what it says about itself.
        data: what its data module knew of the training data; see `Card.data`.
        preprocess: whether preprocessing becomes part of the graph.
        probabilities: whether a softmax does.

    Raises:
        UserError: what was asked for does not fit the module.
    """

    def __init__(
        self,
        module: pl.LightningModule,
        exportable: Exportable,
        data: dict[str, Any],
        preprocess: bool = False,
        probabilities: bool = False,
    ) -> None:
        self.module, self.exportable, self.data = module, exportable, data
        self.preprocess, self.probabilities = preprocess, probabilities
        signature = exportable.export_signature()
        if (preprocess or probabilities) and len(signature.inputs) != 1:
            raise UserError("--preprocess and --probabilities take a model of one input")
        self.softmax_dims = [each.classes if probabilities else None for each in signature.outputs]
        if probabilities and not any(dim is not None for dim in self.softmax_dims):
            raise UserError(f"--probabilities: {type(module).__name__} has no classes to give probabilities of")
        self.pixels = pixels_of(data, type(module).__name__) if preprocess else None
        if preprocess:
            (image,) = signature.inputs
            signature = replace(signature, inputs=(Input(image.name, {**image.free, **FREE_SIZE}),))
        self.signature = signature
        self.graph: nn.Module = module
        if preprocess or probabilities:
            several = len(self.softmax_dims) > 1
            self.graph = (
                WithSeveralEnds(module, self.pixels, self.softmax_dims)
                if several
                else WithEnds(module, self.pixels, self.softmax_dims[0])
            )
        self.graph.eval()

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        """What the exported file takes for a batch of the data module."""
        inputs = self.exportable.export_inputs(batch)
        if self.pixels is None:
            return inputs
        if inputs[0].ndim != 4:
            name = self.signature.inputs[0].name
            raise UserError(f"--preprocess is for images: {type(self.module).__name__} takes '{name}'")
        return (self.pixels.back(inputs[0]),)

    def reference(self, batch: Any) -> list[np.ndarray]:
        """What the exported file should return for a batch: the module's own outputs, preprocessed by its own data."""
        with torch.inference_mode():
            outputs = flatten(self.module(*self.exportable.export_inputs(batch)))
            ends = zip(outputs, self.softmax_dims, strict=True)
            return [(each if dim is None else each.softmax(dim)).numpy() for each, dim in ends]

    def eager(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What the graph itself returns, run by torch as it was written."""
        with torch.inference_mode():
            return [each.numpy() for each in flatten(self.graph(*map(torch.from_numpy, inputs)))]

    def card(self, format_: str, example: Sequence[Tensor], source: dict[str, Any], versions: dict[str, str]) -> Card:
        """The card of a file of this program."""
        with torch.inference_mode():
            returned = self.graph(*example)
        named = zip(self.signature.inputs, example, strict=True)
        inputs = [Port(each.name, _dtype(x), _shape(x, {i: d.name for i, d in each.free.items()})) for each, x in named]
        outputs = [
            Port(
                each.name if dim is None else _of_probabilities(each.name),
                _dtype(x),
                _shape(x, {0: "batch"}),
                each.classes,
            )
            for each, x, dim in zip(self.signature.outputs, flatten(returned), self.softmax_dims, strict=True)
        ]
        structure = "dict" if isinstance(returned, dict) else "tensor" if isinstance(returned, Tensor) else "tuple"
        return Card(
            format_, inputs, outputs, structure, self.probabilities, self.preprocess, self.data, source, versions
        )


def pixels_of(data: dict[str, Any], owner: str) -> Pixels:
    """The preprocessing that a data module's state describes.

    Raises:
        UserError: it describes none.
    """
    missing = {"mean", "std", "shape"} - data.keys()
    if missing:
        lacking = ", ".join(sorted(missing))
        raise UserError(f"--preprocess is for images: the data module of {owner} has no {lacking} in its state_dict")
    return Pixels(data["mean"], data["std"], data["shape"])


class Bridge:
    """Lets an exported file stand in for the ``forward`` of the model that it was made from.

    Args:
        card: what the file says about itself.
    """

    def __init__(self, card: Card) -> None:
        self.card = card
        self._pixels = pixels_of(card.data, "the exported model") if card.preprocess else None

    def inputs(self, tensors: Sequence[Tensor]) -> list[np.ndarray]:
        """The arguments of ``forward`` as the file takes them: pixels again where it normalises by itself."""
        if self._pixels is not None:
            tensors = [self._pixels.back(tensors[0].cpu())]
        return [each.detach().cpu().numpy() for each in tensors]

    def outputs(self, arrays: Sequence[np.ndarray]) -> Any:
        """What ``forward`` would have returned.

        Probabilities become their logarithms: class scores up to a constant per sample, which neither a decision nor a
        cross-entropy notices.
        """
        tensors = [torch.from_numpy(each) for each in arrays]
        if self.card.probabilities:
            tensors = [
                each if port.classes is None else each.clamp_min(torch.finfo(each.dtype).tiny).log()
                for each, port in zip(tensors, self.card.outputs, strict=True)
            ]
        if self.card.structure == "tensor":
            return tensors[0]
        if self.card.structure == "tuple":
            return tuple(tensors)
        return dict(zip((port.name for port in self.card.outputs), tensors, strict=True))


def _of_probabilities(name: str) -> str:
    """``probabilities`` for ``logits``, ``mask_probabilities`` for ``mask_scores``."""
    return f"{name.removesuffix('scores').removesuffix('logits')}probabilities"


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _shape(x: Tensor, free: dict[int, str]) -> list[int | str]:
    return [free.get(position, size) for position, size in enumerate(x.shape)]
