"""The samples that exported files are compared on: as the data module prepared them, or raw.

A file with ``--preprocess`` takes raw samples, so its certificate starts with the raw images of the test split, each in
its own size. A test split may have a single shape, so images of five more shapes are made from test samples. The data
module reads them from files, as `predict` would.

Shape suffixes: B samples, C channels, H rows, W columns.
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from plcourse.data.resize import as_image
from plcourse.errors import UserError
from plcourse.export.graph import Place, Program
from plcourse.training.exportable import RawImages, ids_of

MAX_SAMPLES = 256  # compared one by one; the metric takes the whole test set
MAX_BYTES = 1 << 28  # of raw images and their outputs held in memory
MAX_PROBES = 16


@dataclass
class Samples:
    """N real test samples of one shape, as the exported files take them, with the outputs of the trained model."""

    ids: list[str]
    inputs: list[np.ndarray]  # one [N, ...] per input
    outputs: list[np.ndarray]  # one [N, ...] per output

    @classmethod
    def of(cls, program: Program, batches: Iterable[Any]) -> "Samples":
        """Takes the first samples of some batches, at most `MAX_SAMPLES`, until one has another shape.

        Raises:
            UserError: there is no sample.
        """
        parts: list[tuple[list[np.ndarray], list[np.ndarray]]] = []
        ids: list[str] = []
        for batch in batches:
            inputs = [each.numpy() for each in program.inputs(batch)]
            if parts and any(a.shape[1:] != b.shape[1:] for a, b in zip(inputs, parts[0][0], strict=True)):
                break
            parts.append((inputs, program.reference(batch)))
            ids += ids_of(batch, len(ids), len(inputs[0]))
            if len(ids) >= MAX_SAMPLES:
                break
        if not ids:
            raise UserError("the test split has no sample to verify the export with")
        inputs, outputs = (
            [np.concatenate(column)[:MAX_SAMPLES] for column in zip(*side, strict=True)]
            for side in zip(*parts, strict=True)
        )
        return cls(ids[:MAX_SAMPLES], inputs, outputs)

    def batch(self, start: int, size: int) -> "Samples":
        """Takes ``size`` samples from number ``start`` on, starting over after the last one."""
        indices = np.arange(start, start + size) % len(self.ids)
        ids = [self.ids[i] for i in indices]
        return Samples(ids, [x[indices] for x in self.inputs], [y[indices] for y in self.outputs])

    def first(self, size: int) -> "Samples":
        """Takes the first ``size`` samples, or all if there are fewer."""
        return self.batch(0, min(size, len(self.ids)))

    def halved(self, program: Program) -> "Samples | None":
        """Halves every free dimension of the inputs but the batch; None if no other is free."""
        if not any(position for port in program.signature.inputs for position in port.free):
            return None
        inputs = []
        for x, port in zip(self.inputs, program.signature.inputs, strict=True):
            for position, free in port.free.items():
                if position:
                    x = x.take(range(max(free.min, x.shape[position] // 2)), axis=position)
            inputs.append(x)
        return Samples(self.ids, inputs, program.eager(inputs))


@dataclass
class Probe:
    """A raw image, and what the data module makes of it."""

    id: str  # of the sample that it is, or was made from
    raw: np.ndarray  # uint8 [1, C, H, W], of any size
    prepared: np.ndarray  # uint8 [1, C, H, W], the pixels of the image that the data module gives the model
    place: Place  # where the raw image lies in the prepared one


@dataclass
class RawSamples:
    """Raw images of the test split, and of other shapes."""

    program: Program  # what the files were made from; it resizes
    groups: list[Samples]  # images of the test split by shape, up to `MAX_SAMPLES` and `MAX_BYTES`
    probes: list[Probe]  # one image of each shape, real ones first

    @classmethod
    def of(cls, program: Program, datamodule: pl.LightningDataModule) -> "RawSamples | None":
        """Collects them from a data module; None if the program does not resize."""
        if not program.takes_any_size:
            return None
        assert isinstance(datamodule, RawImages)
        groups, probes = _real(program, datamodule)
        return cls(program, groups, probes + _derived(program, datamodule, groups[0]))

    @property
    def shapes(self) -> dict[str, int]:
        """How many images of each height and width are compared, such as ``{"48 x 96": 24}``."""
        found = {shape_of(group.inputs[0]): len(group.ids) for group in self.groups}
        for probe in self.probes:
            found.setdefault(shape_of(probe.raw), 1)
        return found


def shape_of(pixels_BCHW: np.ndarray) -> str:
    """Height and width, such as ``48 x 96``."""
    return " x ".join(map(str, pixels_BCHW.shape[2:]))


def place_of(batch: Any, i: int, raw_CHW: Tensor) -> Place:
    """Where a sample of a batch lies in its resized image; it fills the image if the batch has no window."""
    height, width = raw_CHW.shape[1:]
    rows, columns = batch["image"].shape[2:]
    top, left, rows, columns = batch["window"][i].tolist() if "window" in batch else (0, 0, rows, columns)
    return Place((height, width), (top, left, rows, columns))


def _real(program: Program, datamodule: RawImages) -> tuple[list[Samples], list[Probe]]:
    """Groups the raw test images by shape; the first of each shape becomes a probe."""
    by_shape: dict[tuple[int, ...], list[tuple[str, Tensor, list[np.ndarray]]]] = defaultdict(list)
    probes: list[Probe] = []
    held = n = 0
    for batch in datamodule.test_dataloader():  # pyright: ignore[reportAttributeAccessIssue]  (a data module)
        outputs, (prepared_BCHW,) = program.answers(batch), program.inputs(batch)
        for i, name in enumerate(batch["id"]):
            if n and (n >= MAX_SAMPLES or held >= MAX_BYTES):
                break
            (raw_CHW,) = datamodule.raw_inputs([name])
            place = place_of(batch, i, raw_CHW)
            answer = program.finished([output[i : i + 1] for output in outputs], place)
            group = by_shape[tuple(raw_CHW.shape)]
            if not group and len(probes) < MAX_PROBES:
                probes.append(Probe(name, raw_CHW[None].numpy(), prepared_BCHW[i : i + 1].numpy(), place))
            group.append((name, raw_CHW, answer))
            n, held = n + 1, held + raw_CHW.numel() + sum(x.nbytes for x in answer)
    groups = []
    for rows in by_shape.values():
        ids, raws, answers = zip(*rows, strict=True)
        columns = [np.concatenate(column) for column in zip(*answers, strict=True)]
        groups.append(Samples(list(ids), [torch.stack(raws).numpy()], columns))
    return groups, probes


def _derived(program: Program, datamodule: RawImages, samples: Samples) -> list[Probe]:
    """Makes a square, a wide, a tall, a tiny and a huge image from test samples, and lets the data module read them."""
    _, rows, columns = program.data["shape"]
    side = max(rows, columns) + 5
    shapes = [(side, side), (rows, 3 * columns + 1), (3 * rows + 1, columns), (2, 3), (901, 1203)]
    raws: list[Tensor] = []
    for number, shape in enumerate(shapes):
        pixels_CHW = torch.from_numpy(samples.inputs[0][number % len(samples.ids)])
        row, column = (
            np.linspace(0, have - 1, want).round().astype(np.int64)
            for have, want in zip(pixels_CHW.shape[1:], shape, strict=True)
        )
        raws.append(pixels_CHW[:, row][:, :, column])
    probes: list[Probe] = []
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{number}.png") for number in range(len(raws))]
        for path, raw_CHW in zip(paths, raws, strict=True):
            as_image(raw_CHW).save(path)
        for batch in datamodule.files_dataloader(paths):
            (prepared_BCHW,) = program.inputs(batch)
            for i, path in enumerate(batch["id"]):
                number = paths.index(path)
                name, raw_CHW, prepared_CHW = samples.ids[number % len(samples.ids)], raws[number], prepared_BCHW[i]
                place = place_of(batch, i, raw_CHW)
                probes.append(Probe(name, raw_CHW[None].numpy(), prepared_CHW[None].numpy(), place))
    return probes
