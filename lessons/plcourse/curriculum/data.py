"""Labelled images for curricula: scored before training, with labels made wrong on purpose where asked for."""

import copy
from collections.abc import Sequence
from typing import Any, Self

import pytorch_lightning as pl

from plcourse.curriculum.noise import noisy_labels
from plcourse.data import (
    Augmentation,
    BatchLoader,
    ImageDataset,
    ImageSize,
    ImageSplits,
    Process,
    Resize,
    delegated,
    eval_loader,
    keys_of,
    run_seed,
    train_loader,
)
from plcourse.data.names import restore_first


class CurriculumData(pl.LightningDataModule):
    """Any image source, ready for training, scoring, evaluation and prediction; satisfies `Splittable`.

    Args:
        source: ``digits``, ``mnist5k``, ``mnist``, ``fashion_mnist``, ``cifar10`` or ``image_folder``.
        root: where files lie or are downloaded to; for ``image_folder`` the folder itself.
        image_size: height and width in pixels, such as [48, 96], or one number for both; None keeps the source's own.
        resize: how images of another size are brought to it: ``crop`` scales to cover it and cuts the rims off,
            ``stretch`` scales each axis on its own, ``pad`` scales to fit and puts black around.
        batch_size: samples per batch and process.
        val_size: samples for validation (int), or their share (float below 1).
        test_size: the same for the test part; a source with parts of its own keeps them.
        split_seed: another seed gives another split.
        label_noise: the share of training labels that are replaced by another class, 0 or more and below 1;
            validation and test labels stay right.
        noise_seed: another seed makes other labels wrong.
        augment: applied to training images, in this order; never to images that are scored.
        num_workers: processes per loader that fetch ahead; 0 fetches in the training process.
        predict_paths: images to predict, as files, folders, patterns or .txt lists; None predicts the test part.

    Raises:
        ValueError: a share of wrong labels outside its range.
    """

    ids = delegated("images.ids")
    labels = delegated("images.labels")
    groups = delegated("images.groups")
    sizes = delegated("images.sizes")
    label_names = delegated("images.label_names")
    raw_inputs = delegated("images.raw_inputs")
    terms = delegated("images.terms")
    num_classes = delegated("images.num_classes")

    def __init__(
        self,
        source: str = "mnist5k",
        root: str = "data",
        image_size: ImageSize | None = None,
        resize: Resize = "crop",
        batch_size: int = 64,
        val_size: int | float = 0.1,
        test_size: int | float = 0.2,
        split_seed: int = 0,
        label_noise: float = 0.0,
        noise_seed: int = 0,
        augment: list[Augmentation] | None = None,
        num_workers: int = 0,
        predict_paths: list[str] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= label_noise < 1:
            raise ValueError(f"label_noise is {label_noise}; it is a share of 0 or more and below 1")
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.images = ImageSplits(source, root, image_size, "raise", val_size, test_size, split_seed, resize=resize)
        self.batch_size, self.augment, self.num_workers = batch_size, augment, num_workers
        self.label_noise, self.noise_seed, self.predict_paths = label_noise, noise_seed, predict_paths

    def prepare_data(self) -> None:
        """Downloads what is missing, unless new files alone are to be predicted."""
        if not (self.predict_paths and self.trainer and self.trainer.predicting):
            self.images.prepare()

    def setup(self, stage: str) -> None:
        """Opens and splits the source; prediction of new files needs only the checkpoint."""
        restore_first(self)
        if not (self.predict_paths and stage == "predict"):
            self.images.open()

    def train_dataloader(self) -> BatchLoader:
        """Shuffled and augmented; each batch has a ``rank_weight``."""
        return train_loader(self._training(self.augment), self.batch_size, Process.of(self.trainer), self.num_workers)

    def scoring_dataloader(self) -> BatchLoader:
        """Each training sample once, in order, not augmented, and whole on every process."""
        return eval_loader(self._training(), self.batch_size, Process())

    def val_dataloader(self) -> BatchLoader:
        """Each validation sample once."""
        return self.images.eval_loader(self.trainer, "val", self.batch_size, self.num_workers)

    def test_dataloader(self) -> BatchLoader:
        """Each test sample once."""
        return self.images.eval_loader(self.trainer, "test", self.batch_size, self.num_workers)

    def predict_dataloader(self) -> BatchLoader:
        """The new files, or each test sample once."""
        if self.predict_paths is None:
            return self.test_dataloader()
        return self.files_dataloader(self.predict_paths)

    def files_dataloader(self, paths: Sequence[str]) -> BatchLoader:
        """New files, as `predict` reads them."""
        return self.images.files_loader(self.trainer, paths, self.batch_size, self.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """Normalisation, image shape and label names, which new images need."""
        return self.images.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what the checkpoint was trained with; other classes or shapes are a UserError."""
        self.images.load_state_dict(state_dict)

    def with_split(self, train_ids: Sequence[str], val_ids: Sequence[str]) -> Self:
        """The same data with other training and validation parts, normalised anew."""
        anew = copy.copy(self)
        anew.images, anew.trainer = self.images.with_split(train_ids, val_ids), None
        return anew

    def _training(self, augment: Sequence[Augmentation] | None = None) -> ImageDataset:
        images = self.images
        part = images.parts["train"]
        labels = noisy_labels(
            images.source.labels[part],
            keys_of([images.source.ids[i] for i in part.tolist()]),
            images.num_classes,
            self.label_noise,
            self.noise_seed,
        )
        return ImageDataset(images.source, part, images.normalisation, augment, run_seed(), labels)
