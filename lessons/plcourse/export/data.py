"""Labelled images for training, with what an export needs of them: calibration samples, and the state that travels."""

from collections.abc import Sequence
from typing import Any, Literal

import pytorch_lightning as pl

from plcourse.data import Augmentation, BatchLoader, ImageSize, ImageSplits, Resize, delegated
from plcourse.data.names import restore_first


class ExportData(pl.LightningDataModule):
    """Any image source; each batch has ``image`` [B, C, H, W], ``label`` [B] and ``id``.

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
        augment: applied to training images, in this order, and never to calibration samples.
        num_workers: processes per loader that fetch ahead; 0 fetches in the training process.
        on_error: ``skip`` leaves unreadable files out and lists them, ``raise`` stops at the first.
        predict_paths: images to predict, as files, folders, patterns or .txt lists; None predicts the test part.
    """

    label_names = delegated("images.label_names")
    raw_inputs = delegated("images.raw_inputs")
    terms = delegated("images.terms")

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
        augment: list[Augmentation] | None = None,
        num_workers: int = 0,
        on_error: Literal["raise", "skip"] = "raise",
        predict_paths: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.images = ImageSplits(source, root, image_size, on_error, val_size, test_size, split_seed, resize=resize)
        self.batch_size, self.augment = batch_size, augment
        self.num_workers, self.predict_paths = num_workers, predict_paths

    def prepare_data(self) -> None:
        """Downloads what is missing, unless new files alone are to be predicted."""
        if not (self.predict_paths and self.trainer and self.trainer.predicting):
            self.images.prepare()

    def setup(self, stage: str) -> None:
        """Opens and splits the source; prediction of new files needs only what the checkpoint, or the file, knows."""
        restore_first(self)
        if not (self.predict_paths and stage == "predict"):
            self.images.open()

    def train_dataloader(self) -> BatchLoader:
        """Shuffled and augmented; each batch has a ``rank_weight``."""
        return self.images.train_loader(self.trainer, self.batch_size, self.augment, self.num_workers)

    def calibration_dataloader(self) -> BatchLoader:
        """Shuffled training samples as they will be seen in use: an int8 range must not come from augmented ones.

        In order they would not do: a source that is sorted by class shows one class first.
        """
        return self.images.train_loader(self.trainer, self.batch_size)

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
        """Normalisation, image shape and label names: what the exported file carries as its own preprocessing."""
        return self.images.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what the model was trained with; other classes or shapes are a UserError."""
        self.images.load_state_dict(state_dict)
