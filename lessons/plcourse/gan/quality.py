"""Quality measures of generated samples, which `validate` and `test` report.

One sample is generated for each real sample of the evaluated part, from a latent drawn for the id of the real one. The
scores therefore do not depend on batches or processes, and all checkpoints are scored on the same latents.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from plcourse.data import ImageSplits
from plcourse.errors import UserError
from plcourse.gan.features import FeatureNetwork, batches, fit_features, part_of
from plcourse.gan.measures import (
    frechet_distance,
    kernel_distance,
    mode_fractions,
    modes_covered,
    precision_and_recall,
    total_variation,
)
from plcourse.processes.collectives import gather_objects

_LISTED = 20  # most classes whose fractions are listed one by one


class Quality(nn.Module, ABC):
    """A quality measure of generated samples, such as `ImageQuality` and `GaussianQuality`.

    Attributes:
        field: the field of a batch with the real samples.
        distance: the score that measures the distance between generated and real samples; smaller is better.
    """

    field: str
    distance: str

    @abstractmethod
    def prepare(self, trainer: pl.Trainer) -> None:
        """Prepares the measure; called in `setup`."""

    @abstractmethod
    def update(self, real: Tensor, fake: Tensor) -> None:
        """Adds B real and B generated samples."""

    @abstractmethod
    def scores(self, trainer: pl.Trainer) -> dict[str, float]:
        """The scores over all processes by name, without the stage; resets the measure. A collective."""

    @abstractmethod
    def describe(self, sample: Tensor) -> dict[str, Any]:
        """Columns of the prediction table about B generated samples."""

    @abstractmethod
    def picture(self, sample: Tensor, columns: int) -> np.ndarray:
        """Draws all samples in one picture, uint8 [H, W, 3], with so many ``columns``."""


class ImageQuality(Quality):
    """Compares images in the features of a classifier of the same source.

    Scores: ``frechet`` and ``kid`` (distances), ``precision`` and ``recall``, ``modes`` (classes with at least a tenth
    of their images), ``class_tv`` (total variation distance of the class histograms), ``confidence`` (mean probability
    of the most likely class). Outside fit also ``frechet_floor`` and ``kid_floor``, the distances of equally many
    training images to the same part, which no generator can be expected to beat; ``share_<class>``, the fraction of
    each class, for up to 20 classes; ``samples``, the number of real and of generated samples; and
    ``feature_accuracy``.

    Args:
        features: the feature network; trained, or loaded from the cache, at its first use.
        neighbours: k of precision and recall, 1 or more.
    """

    field, distance = "image", "frechet"

    def __init__(self, features: FeatureNetwork, neighbours: int = 3) -> None:
        super().__init__()
        self.features = features.requires_grad_(False)
        self.neighbours = neighbours
        self._trainer: pl.Trainer | None = None
        # of each batch: features of real and of generated images, most likely class of these with its probability
        self._batches: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def prepare(self, trainer: pl.Trainer) -> None:
        """Keeps the trainer, whose images train the feature network unless a checkpoint contains it."""
        self._trainer = trainer

    def update(self, real: Tensor, fake: Tensor) -> None:
        """Adds the features of B real and B generated images, each [B, C, H, W] in [-1, 1]."""
        features_BF, score_BK = self._look(fake)
        probability_B, label_B = score_BK.softmax(dim=1).max(dim=1)
        classes_B2 = torch.stack([label_B.double(), probability_B.double()], dim=1)
        self._batches.append((_rows(self._look(real)[0]), _rows(features_BF), _rows(classes_B2)))

    def scores(self, trainer: pl.Trainer) -> dict[str, float]:
        """The scores over all processes, as the class lists them; a UserError for too few samples."""
        self._ensure_features()
        found = [batch for own in gather_objects(self._batches) for batch in own]  # in the order of the samples
        self._batches = []
        if (count := sum(len(real) for real, _, _ in found)) < self.neighbours + 2:
            raise UserError(
                f"{count} samples to evaluate are too few for precision and recall with {self.neighbours} neighbors; "
                f"raise val_size, test_size or the batch limits to {self.neighbours + 2} samples or more"
            )
        real, fake, labels = map(np.concatenate, zip(*found, strict=True))
        images = _images(trainer)
        classes = images.num_classes
        fractions = mode_fractions(labels[:, 0].astype(np.int64), classes)
        true = mode_fractions(images.source.labels[images.parts["train"]], classes)
        precision, recall = precision_and_recall(real, fake, self.neighbours)
        scores = {
            "frechet": frechet_distance(real, fake),
            "kid": kernel_distance(real, fake),
            "precision": precision,
            "recall": recall,
            "modes": float(modes_covered(fractions, true)),
            "class_tv": total_variation(fractions, true),
            "confidence": float(labels[:, 1].mean()),
        }
        if trainer.state.fn == "fit":
            return scores
        training = batches(part_of(images, "train", len(real)), 256)
        floor = np.concatenate([_rows(self._look(batch["image"])[0]) for batch in training])
        scores |= {"frechet_floor": frechet_distance(real, floor), "kid_floor": kernel_distance(real, floor)}
        if classes <= _LISTED:
            scores |= {f"share_{name}": x for name, x in zip(images.label_names, fractions.tolist(), strict=True)}
        return scores | {"samples": float(len(real)), "feature_accuracy": float(self.features.accuracy)}

    def describe(self, sample: Tensor) -> dict[str, Any]:
        """``label`` int64 [B], the most likely class, and ``confidence`` [B], its probability."""
        confidence_B, label_B = self._look(sample)[1].softmax(dim=1).max(dim=1)
        return {"label": label_B, "confidence": confidence_B}

    def picture(self, sample: Tensor, columns: int) -> np.ndarray:
        """The images row by row, each with a thin black frame."""
        pixels_BCHW = to_pixels(sample)
        if pixels_BCHW.shape[1] == 1:
            pixels_BCHW = np.repeat(pixels_BCHW, 3, axis=1)
        framed = np.pad(pixels_BCHW, ((0, -len(pixels_BCHW) % columns), (0, 0), (1, 1), (1, 1)))
        rows = framed.reshape(-1, columns, *framed.shape[1:]).transpose(0, 3, 1, 4, 2)
        return np.ascontiguousarray(rows.reshape(rows.shape[0] * rows.shape[1], -1, 3))

    def _ensure_features(self) -> None:
        """Trains the feature network or loads it from the cache; at first use, since a checkpoint may contain it."""
        if self.features.fitted:
            return
        trainer = self._trainer
        assert trainer is not None, "prepare comes first"
        cache = Path(trainer.cache_dir) / "features"  # pyright: ignore[reportAttributeAccessIssue]  (our Trainer)
        fit_features(self.features, _images(trainer), cache, trainer.strategy.root_device)

    def _look(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        self._ensure_features()
        weight = self.features.head.weight
        with torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            return self.features(image_BCHW.to(weight))


def to_pixels(image_BCHW: Tensor) -> np.ndarray:
    """Images in [-1, 1] as uint8 [B, C, H, W]."""
    return ((image_BCHW.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu().numpy()


def _images(trainer: pl.Trainer) -> ImageSplits:
    images = getattr(getattr(trainer, "datamodule", None), "splits", None)
    if not isinstance(images, ImageSplits):
        raise UserError("ImageQuality needs a data module with labeled images, such as RealImages")
    return images


def _rows(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
