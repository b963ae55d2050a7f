"""The program that is exported: the model, with what stands before and after it where that was asked for.

Shape suffixes: B samples, C channels, H rows, W columns.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from plcourse.core.errors import UserError
from plcourse.core.exportable import Dimension, Exportable, Input, Signature
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
    """A model of one input with preprocessing before it and a softmax after it, each on request.

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
        single = len(signature.inputs) == 1 and len(signature.outputs) == 1
        if (preprocess or probabilities) and not single:
            raise UserError("--preprocess and --probabilities take a model of one input and one output")
        softmax_dim = signature.outputs[0].classes if probabilities else None
        if probabilities and softmax_dim is None:
            raise UserError(f"--probabilities: {type(module).__name__} has no classes to give probabilities of")
        pixels = pixels_of(data, type(module).__name__) if preprocess else None
        if preprocess:
            (image,) = signature.inputs
            signature = Signature(
                (Input(image.name, {**image.free, **FREE_SIZE}),), signature.outputs, signature.metric, signature.mode
            )
        self.signature = signature
        self.pixels = pixels
        self.graph: nn.Module = WithEnds(module, pixels, softmax_dim) if preprocess or probabilities else module
        self.graph.eval()

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        """What the exported file takes for a batch of the data module."""
        inputs = self.exportable.export_inputs(batch)
        return inputs if self.pixels is None else (self.pixels.back(inputs[0]),)

    def reference(self, batch: Any) -> list[np.ndarray]:
        """What the exported file should return for a batch: the module's own outputs, preprocessed by its own data."""
        with torch.inference_mode():
            outputs = flatten(self.module(*self.exportable.export_inputs(batch)))
            if self.probabilities:
                outputs = [outputs[0].softmax(self.signature.outputs[0].classes)]
            return [each.numpy() for each in outputs]

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
            Port(each.name, _dtype(x), _shape(x, {0: "batch"}), each.classes)
            for each, x in zip(self.signature.outputs, flatten(returned), strict=True)
        ]
        if self.probabilities:
            outputs = [Port("probabilities", outputs[0].dtype, outputs[0].shape, outputs[0].classes)]
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
        raise UserError(
            f"--preprocess: the data module of {owner} has no {', '.join(sorted(missing))} in its state_dict"
        )
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
            return tensors[0].clamp_min(torch.finfo(tensors[0].dtype).tiny).log()
        if self.card.structure == "tensor":
            return tensors[0]
        if self.card.structure == "tuple":
            return tuple(tensors)
        return dict(zip((port.name for port in self.card.outputs), tensors, strict=True))


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _shape(x: Tensor, free: dict[int, str]) -> list[int | str]:
    return [free.get(position, size) for position, size in enumerate(x.shape)]
