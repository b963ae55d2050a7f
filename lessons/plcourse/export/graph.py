"""The program that is exported: the model, with what stands before and after it where that was asked for.

Shape suffixes: B samples, C channels, H rows, W columns, D features.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from plcourse.core.data.resize import Resize, Resizer, Unresizer, in_size_of_input
from plcourse.core.errors import UserError
from plcourse.core.exportable import Dimension, Exportable, Input, RawImages, RawInputs, RawTexts
from plcourse.export.card import Card, Port, flatten

FREE_SIZE = {2: Dimension("height"), 3: Dimension("width")}


class Pixels(nn.Module):
    """From pixels to what the model was trained on, and back.

    Args:
        mean: per channel, of pixels in [0, 1].
        std: the same.
        shape: channels, rows and columns of the training images.
        resize: the rule by which pixels of another size are resized; None takes pixels of the training size alone.
    """

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
        """uint8 [B, C, any, any] in, normalised float32 [B, C, H, W] out."""
        return self.resizer(pixels_BCHW).float() * self.factor + self.shift

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


class Columns(nn.Module):
    """From the numbers of a table's rows to standardised features, and back.

    Args:
        mean: per feature.
        std: the same.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float64))
        self.takes_any_size = False

    def forward(self, numbers_BD: Tensor) -> Tensor:
        """float64 [B, D] in, standardised float32 [B, D] out."""
        return ((numbers_BD - self.mean) / self.std).float()

    def back(self, features_BD: Tensor) -> Tensor:
        """The numbers that features were made from, up to rounding."""
        return features_BD.double() * self.std + self.mean


class Same(nn.Module):
    """Leaves an output as it is; stands where `Unresizer` may stand."""

    def forward(self, scores: Tensor, x: Tensor) -> Tensor:
        """The scores."""
        return scores


class WithEnds(nn.Module):
    """A model of one input and one output with preprocessing before it and its reverse and a softmax after it.

    Args:
        model: the model.
        pixels: the preprocessing; an identity for none.
        back: brings the output into the size of the raw input.
        softmax: of the output.
    """

    def __init__(self, model: nn.Module, pixels: nn.Module, back: nn.Module, softmax: nn.Module) -> None:
        super().__init__()
        self.model, self.pixels, self.back, self.softmax = model, pixels, back, softmax

    def forward(self, x: Tensor) -> Tensor:
        """What the exported file computes."""
        return self.softmax(self.back(self.model(self.pixels(x)), x))


class WithSeveralEnds(nn.Module):
    """The same for a model that returns a tuple.

    Args:
        model: the model.
        pixels: the preprocessing; an identity for none.
        backs: of each output, see `WithEnds`.
        softmaxes: the same.
    """

    def __init__(
        self, model: nn.Module, pixels: nn.Module, backs: Sequence[nn.Module], softmaxes: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        self.model, self.pixels = model, pixels
        self.backs, self.softmaxes = nn.ModuleList(backs), nn.ModuleList(softmaxes)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """What the exported file computes."""
        outputs = flatten(self.model(self.pixels(x)))
        ends = zip(self.backs, self.softmaxes, outputs, strict=True)
        return tuple(softmax(back(each, x)) for back, softmax, each in ends)


class Program:
    """A trained module, ready to be exported: the graph, an example, and the way of a batch into it and back.

    Args:
        module: the trained module, in evaluation mode on the CPU.
        exportable: what it says about itself.
        data: what its data module knew of the training data; see `Card.data`.
        preprocess: whether preprocessing becomes part of the graph.
        probabilities: whether a softmax does.
        datamodule: knows what its samples were made from, if it is a `RawInputs`. Images are resized in the graph only
            where that can be verified: by a `RawImages` whose state names the rule.

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
        datamodule: Any = None,
    ) -> None:
        if preprocess and "shape" in data and not isinstance(datamodule, RawImages):
            data = {key: value for key, value in data.items() if key != "resize"}
        self.module, self.exportable, self.data = module, exportable, data
        self.raw: RawInputs | None = datamodule if preprocess and isinstance(datamodule, RawInputs) else None
        self.texts: RawTexts | None = datamodule if isinstance(datamodule, RawTexts) else None
        self.preprocess, self.probabilities = preprocess, probabilities
        signature = exportable.export_signature()
        if (preprocess or probabilities) and len(signature.inputs) != 1:
            raise UserError("--preprocess and --probabilities take a model of one input")
        self.softmax_dims = [each.classes if probabilities else None for each in signature.outputs]
        if probabilities and not any(dim is not None for dim in self.softmax_dims):
            raise UserError(f"--probabilities: {type(module).__name__} has no classes to give probabilities of")
        self.pixels = preprocessing_of(data, type(module).__name__) if preprocess else None
        self.takes_any_size = self.pixels is not None and self.pixels.takes_any_size
        self.in_own_size = [each.per_pixel and self.takes_any_size for each in signature.outputs]
        if isinstance(self.pixels, Pixels):
            (image,) = signature.inputs
            free = {**image.free, **FREE_SIZE} if self.takes_any_size else {0: image.free[0]}
            signature = replace(signature, inputs=(Input(image.name, free),))
        self.signature = signature
        self.graph: nn.Module = module
        if preprocess or probabilities:
            if any(self.in_own_size) and data["resize"] == "crop":
                raise UserError(
                    "--preprocess: the data module resizes by 'crop', and the rims cut off have no mask; train with "
                    "'pad' or 'stretch'"
                )
            ends = [nn.Identity() if dim is None else nn.Softmax(dim) for dim in self.softmax_dims]
            backs = [Unresizer(data["resize"]) if own else Same() for own in self.in_own_size]
            before = self.pixels or nn.Identity()
            several = len(ends) > 1
            self.graph = (
                WithSeveralEnds(module, before, backs, ends) if several else WithEnds(module, before, backs[0], ends[0])
            )
        self.graph.eval()

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        """What the exported file takes for a batch of the data module."""
        if self.texts is not None and "written" in batch:
            batch = {**batch, **self.texts.encoded(json.loads(json.dumps(self.data)), batch["written"])}
        inputs = self.exportable.export_inputs(batch)
        if self.pixels is None:
            return inputs
        if inputs[0].ndim != (4 if isinstance(self.pixels, Pixels) else 2):
            name = self.signature.inputs[0].name
            raise UserError(f"--preprocess is for images and tables: {type(self.module).__name__} takes '{name}'")
        if isinstance(self.pixels, Columns) and self.raw is not None:
            return (torch.stack([each.double() for each in self.raw.raw_inputs(batch["id"])]),)
        return (self.pixels.back(inputs[0]),)

    def answers(self, batch: Any) -> list[Tensor]:
        """The module's own outputs for a batch of its data module, whatever stands in for its ``forward``."""
        with torch.inference_mode():
            return flatten(type(self.module).forward(self.module, *self.exportable.export_inputs(batch)))

    def reference(self, batch: Any) -> list[np.ndarray]:
        """What the exported file should return for a batch: the module's own outputs, preprocessed by its own data."""
        return self.finished(self.answers(batch))

    def brought_back(self, outputs: Sequence[Tensor], place: "Place | None" = None) -> list[Tensor]:
        """Outputs of a single sample, those of pixels in the size of the raw image; as they are without a place."""
        return [
            in_size_of_input(each[0], place.size, place.window)[None] if own and place is not None else each
            for each, own in zip(outputs, self.in_own_size, strict=True)
        ]

    def finished(self, outputs: Sequence[Tensor], place: "Place | None" = None) -> list[np.ndarray]:
        """The module's outputs as the exported file returns them; see `brought_back`."""
        ends = zip(self.brought_back(outputs, place), self.softmax_dims, strict=True)
        return [(each if dim is None else each.softmax(dim)).numpy() for each, dim in ends]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images that the model was trained on."""
        _, height, width = self.data["shape"]
        return height, width

    @property
    def raw_dtype(self) -> torch.dtype:
        """Of the raw inputs of the graph: uint8 for pixels, float64 for the numbers of a table."""
        return torch.uint8 if isinstance(self.pixels, Pixels) else torch.float64

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
                _shape(x, {0: "batch", **({2: "height", 3: "width"} if own else {})}),
                each.classes,
            )
            for each, x, dim, own in zip(
                self.signature.outputs, flatten(returned), self.softmax_dims, self.in_own_size, strict=True
            )
        ]
        structure = "dict" if isinstance(returned, dict) else "tensor" if isinstance(returned, Tensor) else "tuple"
        return Card(
            format_, inputs, outputs, structure, self.probabilities, self.preprocess, self.data, source, versions
        )


class Place(NamedTuple):
    """Where an input lies in its resized image: its own height and width, and the window (see `resize.Window`)."""

    size: tuple[int, int]
    window: tuple[int, int, int, int]


def preprocessing_of(data: dict[str, Any], owner: str) -> Pixels | Columns:
    """The preprocessing that a data module's state describes.

    Raises:
        UserError: it describes none.
    """
    if missing := {"mean", "std"} - data.keys():
        lacking = ", ".join(sorted(missing))
        raise UserError(
            f"--preprocess is for images and tables: the data module of {owner} has no {lacking} in its state_dict"
        )
    if "shape" in data:
        return Pixels(data["mean"], data["std"], data["shape"], data.get("resize"))
    return Columns(data["mean"], data["std"])


class Bridge:
    """Lets an exported file stand in for the ``forward`` of the model that it was made from.

    Args:
        card: what the file says about itself.
    """

    def __init__(self, card: Card) -> None:
        self.card = card
        self._pixels = preprocessing_of(card.data, "the exported model") if card.preprocess else None

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
