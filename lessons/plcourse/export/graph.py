"""The program that is exported: the model, with preprocessing before it and a softmax after it if requested.

Shape suffixes: B samples, C channels, H rows, W columns.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from plcourse.data.resize import Unresizer, in_size_of_input
from plcourse.errors import UserError
from plcourse.export.card import Card, Port, Source, flatten
from plcourse.export.preprocessing import Columns, Pixels, preprocessing_of
from plcourse.training.exportable import Dimension, Exportable, Input, RawImages, RawInputs, RawTexts


class Program:
    """A trained module ready for export: its graph, and the conversion of batches into inputs and expected outputs.

    Args:
        module: the trained module, in evaluation mode on the CPU; ``exportable`` describes its inputs and outputs.
        data: the state of its data module; see `Card.data`.
        preprocess: whether the graph includes the preprocessing; ``probabilities``: whether it ends with a softmax.
        datamodule: the data module. The graph resizes images only if that can be verified, which takes a `RawImages`
            whose state names the resize rule.

    Raises:
        UserError: the module does not support what was requested.
    """

    def __init__(
        self,
        module: pl.LightningModule,
        exportable: Exportable,
        data: dict[str, Any],
        preprocess: bool = False,
        probabilities: bool = False,
        datamodule: pl.LightningDataModule | None = None,
    ) -> None:
        if preprocess and "shape" in data and not isinstance(datamodule, RawImages):
            data = {key: value for key, value in data.items() if key != "resize"}
        self.module, self.exportable, self.data, self.probabilities = module, exportable, data, probabilities
        self.raw = datamodule if preprocess and isinstance(datamodule, RawInputs) else None
        self.texts = datamodule if isinstance(datamodule, RawTexts) else None
        self.signature = signature = exportable.export_signature()
        if (preprocess or probabilities) and len(signature.inputs) != 1:
            raise UserError("--preprocess and --probabilities need a model of one input")
        self.softmax_dims = [each.classes if probabilities else None for each in signature.outputs]
        if probabilities and not any(dim is not None for dim in self.softmax_dims):
            raise UserError(f"--probabilities: {type(module).__name__} has no output with classes")
        self.preprocessing = preprocessing_of(data, type(module).__name__) if preprocess else None
        self.takes_any_size = self.preprocessing is not None and self.preprocessing.takes_any_size
        self.in_raw_size = [each.per_pixel and self.takes_any_size for each in signature.outputs]
        if isinstance(self.preprocessing, Pixels):
            (image,) = signature.inputs
            sizes = {2: Dimension("height"), 3: Dimension("width")}
            free = {**image.free, **sizes} if self.takes_any_size else {0: image.free[0]}
            self.signature = replace(signature, inputs=(Input(image.name, free),))
        self.graph = (self._with_ends() if preprocess or probabilities else module).eval()

    def inputs(self, batch: Any) -> tuple[Tensor, ...]:
        """Converts a batch of the data module to the inputs of the exported file."""
        if self.texts is not None and "written" in batch:
            batch = {**batch, **self.texts.encoded(json.loads(json.dumps(self.data)), batch["written"])}
        inputs = self.exportable.export_inputs(batch)
        if self.preprocessing is None:
            return inputs
        if inputs[0].ndim != self.preprocessing.ndim:
            name = self.signature.inputs[0].name
            raise UserError(f"--preprocess is for images and tables: {type(self.module).__name__} takes '{name}'")
        if isinstance(self.preprocessing, Columns) and self.raw is not None:
            return (torch.stack([each.double() for each in self.raw.raw_inputs(batch["id"])]),)
        return (self.preprocessing.back(inputs[0]),)

    def answers(self, batch: Any) -> list[Tensor]:
        """The module's outputs for a batch, computed by its class even if something replaces its ``forward``."""
        with torch.inference_mode():
            return flatten(type(self.module).forward(self.module, *self.exportable.export_inputs(batch)))

    def reference(self, batch: Any) -> list[np.ndarray]:
        """What the exported file should return for a batch, from the module and the data module's preprocessing."""
        return self.finished(self.answers(batch))

    def in_size_of_raw(self, outputs: Sequence[Tensor], place: "Place | None" = None) -> list[Tensor]:
        """Resizes the per-pixel outputs of a single sample to its raw image; without a place nothing changes."""
        return [
            in_size_of_input(each[0], place.size, place.window)[None] if in_raw_size and place is not None else each
            for each, in_raw_size in zip(outputs, self.in_raw_size, strict=True)
        ]

    def finished(self, outputs: Sequence[Tensor], place: "Place | None" = None) -> list[np.ndarray]:
        """Converts the module's outputs to those of the exported file; see `in_size_of_raw` for ``place``."""
        ends = zip(self.in_size_of_raw(outputs, place), self.softmax_dims, strict=True)
        return [(each if dim is None else each.softmax(dim)).numpy() for each, dim in ends]

    def eager(self, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Runs the graph itself in torch."""
        with torch.inference_mode():
            return [each.numpy() for each in flatten(self.graph(*map(torch.from_numpy, inputs)))]

    def card(
        self,
        format_: str,
        example: Sequence[Tensor],
        source: Source,
        versions: dict[str, str],
        opset: int | None = None,
    ) -> Card:
        """Describes a file of this program."""
        with torch.inference_mode():
            returned = self.graph(*example)
        inputs = [
            _port(port.name, x, {position: free.name for position, free in port.free.items()})
            for port, x in zip(self.signature.inputs, example, strict=True)
        ]
        outputs = []
        ends = zip(self.signature.outputs, flatten(returned), self.softmax_dims, self.in_raw_size, strict=True)
        for port, x, dim, in_raw_size in ends:
            stem = port.name.removesuffix("scores").removesuffix("logits")
            free = {0: "batch", 2: "height", 3: "width"} if in_raw_size else {0: "batch"}
            outputs.append(_port(port.name if dim is None else f"{stem}probabilities", x, free, port.classes))
        structure = "dict" if isinstance(returned, dict) else "tensor" if isinstance(returned, Tensor) else "tuple"
        flags = (self.probabilities, self.preprocessing is not None)
        return Card(format_, inputs, outputs, structure, *flags, self.data, source, versions, opset)

    def _with_ends(self) -> nn.Module:
        if any(self.in_raw_size) and self.data["resize"] == "crop":
            raise UserError(
                "--preprocess: the data module resizes by 'crop', and the rims cut off get no mask; train with 'pad' "
                "or 'stretch'"
            )
        before = self.preprocessing or nn.Identity()
        backs = [Unresizer(self.data["resize"]) if in_raw_size else Same() for in_raw_size in self.in_raw_size]
        softmaxes = [nn.Identity() if dim is None else nn.Softmax(dim) for dim in self.softmax_dims]
        if len(softmaxes) > 1:
            return WithSeveralEnds(self.module, before, backs, softmaxes)
        return WithEnds(self.module, before, backs[0], softmaxes[0])


class Bridge:
    """Lets an exported file replace the ``forward`` of the model that it was made from."""

    def __init__(self, card: Card) -> None:
        self.card = card
        self._preprocessing = preprocessing_of(card.data, "the exported model") if card.preprocess else None

    def inputs(self, tensors: Sequence[Tensor]) -> list[np.ndarray]:
        """Converts the arguments of ``forward`` to the file's inputs, undoing any preprocessing that it contains."""
        if self._preprocessing is not None:
            tensors = [self._preprocessing.back(tensors[0].cpu())]
        return [each.detach().cpu().numpy() for each in tensors]

    def outputs(self, arrays: Sequence[np.ndarray]) -> Tensor | tuple[Tensor, ...] | dict[str, Tensor]:
        """Converts the file's outputs to what ``forward`` would return.

        Probabilities become logarithms: class scores up to a constant per sample, which changes neither a decision nor
        a cross-entropy.
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


class Place(NamedTuple):
    """Where a raw image lies in its resized image: its height and width, and the window (see `resize.Window`)."""

    size: tuple[int, int]
    window: tuple[int, int, int, int]


class WithEnds(nn.Module):
    """A model of one input and one output, with preprocessing, a resize of the output to the raw size, and a softmax.

    Steps that are not requested are identities.
    """

    def __init__(self, model: nn.Module, before: nn.Module, back: nn.Module, softmax: nn.Module) -> None:
        super().__init__()
        self.model, self.before, self.back, self.softmax = model, before, back, softmax

    def forward(self, x: Tensor) -> Tensor:
        """Computes what the exported file returns."""
        return self.softmax(self.back(self.model(self.before(x)), x))


class WithSeveralEnds(nn.Module):
    """Like `WithEnds`, for a model that returns a tuple; ``backs`` and ``softmaxes`` have one module per output."""

    def __init__(
        self, model: nn.Module, before: nn.Module, backs: Sequence[nn.Module], softmaxes: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        self.model, self.before = model, before
        self.backs, self.softmaxes = nn.ModuleList(backs), nn.ModuleList(softmaxes)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Computes what the exported file returns."""
        ends = zip(self.backs, self.softmaxes, flatten(self.model(self.before(x))), strict=True)
        return tuple(softmax(back(each, x)) for back, softmax, each in ends)


class Same(nn.Module):
    """Returns the scores unchanged; TorchScript needs it with the signature of `Unresizer`."""

    def forward(self, scores: Tensor, x: Tensor) -> Tensor:
        """Returns the scores."""
        return scores


def _port(name: str, x: Tensor, free: dict[int, str], classes: int | None = None) -> Port:
    shape: list[int | str] = [free.get(position, size) for position, size in enumerate(x.shape)]
    return Port(name, str(x.dtype).removeprefix("torch."), shape, classes)
