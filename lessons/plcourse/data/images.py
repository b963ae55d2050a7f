"""Normalized batches of the images of a source, and the loaders of the parts.

Images stay uint8 until a batch needs them, which takes a quarter of the memory and of the copying.

Shape suffixes: B batch, C channels, H height, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from pytorch_lightning import Trainer

from plcourse.data.loader import BatchLoader
from plcourse.data.protocols import Fetcher, Source
from plcourse.data.provenance import Identities
from plcourse.data.randoms import keys_of, run_seed
from plcourse.data.samplers import Accumulation, EvalSampler, TrainSampler
from plcourse.data.transforms import Augmentation, augment_batch

FIT_LIMIT = 2048  # images; their mean is known to about 2 % of the standard deviation of one image's mean
_CHUNK = 256  # images held as float64 at a time while fitting


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation of each channel, for pixels in [0, 1]."""

    mean: list[float]
    std: list[float]


def fit_normalization(source: Source, indices: np.ndarray, limit: int = FIT_LIMIT) -> Normalization:
    """Fits mean and standard deviation to the samples at `indices` (int64 [N]), which must be training samples only.

    At most `limit` images are read, evenly spaced in `indices`, also of a source in memory, so that a folder and the
    same images in memory are normalized in the same way. A constant channel gets the standard deviation 1.
    """
    if len(indices) > limit:
        indices = indices[np.linspace(0, len(indices) - 1, limit).round().astype(np.int64)]
    n_pixels = len(indices) * source.shape[1] * source.shape[2]
    totals_C = squares_C = torch.zeros(source.shape[0], dtype=torch.float64)
    for start in range(0, len(indices), _CHUNK):
        # sums of integers below 2**53 are exact in float64, so threads and chunks cannot change the result
        pixels_BCHW = source.read(indices[start : start + _CHUNK]).double()
        totals_C = totals_C + pixels_BCHW.sum(dim=(0, 2, 3))
        squares_C = squares_C + pixels_BCHW.square().sum(dim=(0, 2, 3))
    mean_C = totals_C / n_pixels
    std_C = (squares_C / n_pixels - mean_C.square()).clamp_min(0).sqrt() / 255
    return Normalization((mean_C / 255).tolist(), torch.where(std_C > 0, std_C, 1.0).tolist())


class ImageDataset:
    """The images of one part as batches, normalized and, for training, augmented.

    Args:
        source: where the images are.
        indices: int64 [N], the part's samples in the source.
        normalization: fitted on the training part.
        augment: applied to images in [0, 1], before normalization; None or empty for evaluation.
        seed: the run's seed, for the augmentation.
        labels: int64 [N], in place of the source's own.
    """

    def __init__(
        self,
        source: Source,
        indices: np.ndarray,
        normalization: Normalization,
        augment: Sequence[Augmentation] | None = None,
        seed: int = 0,
        labels: np.ndarray | None = None,
    ) -> None:
        self.source = source
        self.indices = indices
        self._normalization = normalization
        self.augment = list(augment or ())
        self.seed = seed
        self.ids = [source.ids[i] for i in indices.tolist()]
        self.labels = source.labels[indices] if labels is None else labels
        self._labels = torch.from_numpy(self.labels)
        mean = torch.tensor(normalization.mean, dtype=torch.float64)
        std = torch.tensor(normalization.std, dtype=torch.float64)
        # one multiplication and one addition per pixel: (x / unit - mean) / std = x * factor + shift
        self._factor_C11 = _per_channel(1 / (std if self.augment else std * 255))
        self._shift_C11 = _per_channel(-mean / std)

    def __len__(self) -> int:
        return len(self.indices)

    def plain(self) -> "ImageDataset":
        """The same samples without augmentation."""
        return ImageDataset(self.source, self.indices, self._normalization, None, self.seed, self.labels)

    @cached_property
    def identities(self) -> Identities:
        """The hashes of the samples."""
        return Identities(self.source.hashes[self.indices], self.ids)

    @cached_property
    def _keys(self) -> np.ndarray:
        return keys_of(self.ids)

    def fetch(self, indices: np.ndarray, epoch: int) -> dict[str, Any]:
        """The samples at `indices` (int64 [B]) of this part; the epoch only changes the augmentation.

        Returns:
            ``image`` float32 [B, C, H, W], ``label`` int64 [B] (-1 where unknown), ``id`` list of B str.
        """
        image_BCHW = self.source.read(self.indices[indices]).float()
        if self.augment:
            image_BCHW.div_(255)
            image_BCHW = augment_batch(self.augment, image_BCHW, self.seed, epoch, self._keys[indices])
        return {"image": self.normalized(image_BCHW), **self._names(indices)}

    def _names(self, indices: np.ndarray) -> dict[str, Any]:
        return {"label": self._labels[torch.from_numpy(indices)], "id": [self.ids[i] for i in indices.tolist()]}

    def normalized(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        """Normalizes float32 images in place; their range is 0 to 255, or 0 to 1 if there are augmentations."""
        return image_BCHW.mul_(self._factor_C11).add_(self._shift_C11)


def _per_channel(values_C: torch.Tensor) -> torch.Tensor:
    values_C11 = values_C.float()[:, None, None]
    # a scalar is broadcast several times faster than a tensor with one channel
    return values_C11.reshape(()) if values_C11.numel() == 1 else values_C11


@dataclass(frozen=True)
class Process:
    """What loaders need to know about their process."""

    rank: int = 0  # its number among all processes
    world_size: int = 1  # processes in all
    pin_memory: bool = False  # whether batches go to a GPU
    overfit: bool = False  # whether the Trainer sees the same batches in every epoch
    accumulation: Accumulation | None = None  # which batches make one optimizer step; None for a step with each

    @classmethod
    def of(cls, trainer: Trainer | None) -> "Process":
        """The process of `trainer`; without a trainer a single process on a CPU."""
        if trainer is None:
            return cls()
        on_gpu = trainer.strategy.root_device.type == "cuda"
        overfit = trainer.overfit_batches > 0  # pyright: ignore[reportAttributeAccessIssue] Lightning sets it late
        return cls(trainer.global_rank, trainer.world_size, on_gpu, overfit, Accumulation(trainer))


class BatchDataset(Fetcher, Protocol):
    """A dataset that is read a batch at a time."""

    def __len__(self) -> int: ...


def train_loader(
    data: BatchDataset, batch_size: int, process: Process, num_workers: int = 0, drop_last: bool = False
) -> BatchLoader:
    """Shuffled batches of `batch_size` per process, for training; the order follows from the run's seed."""
    rank = (process.rank, process.world_size)
    sampler = TrainSampler(len(data), batch_size, run_seed(), *rank, drop_last, reshuffle=not process.overfit)
    return BatchLoader(data, sampler, num_workers, process.pin_memory, accumulation=process.accumulation)


def eval_loader(
    data: BatchDataset, batch_size: int, process: Process, num_workers: int = 0, part: str = ""
) -> BatchLoader:
    """Each sample once, in order, on one process, `batch_size` per batch, for validation, test and prediction.

    `part` names the part, where the samples are one; a part other than ``train`` must not hold training samples.
    """
    sampler = EvalSampler(len(data), batch_size, process.rank, process.world_size)
    loader = BatchLoader(data, sampler, num_workers, process.pin_memory)
    loader.part = part
    return loader
