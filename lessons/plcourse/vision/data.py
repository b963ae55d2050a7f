"""Images with a class and a mask each, in dict batches: ``image``, ``mask``, ``label``, ``size``, ``id``."""

import copy
from collections.abc import Sequence
from typing import Any, Self

import pytorch_lightning as pl

from plcourse.data import BatchLoader, ImageSize, MaskSplits, OnError, Resize, delegated
from plcourse.data.names import restore_first
from plcourse.vision.augment import Albumentations


class VisionData(pl.LightningDataModule):
    """Any source of masks, ready for training, evaluation and prediction; satisfies `Splittable`.

    Args:
        source: ``digits_on_photos``, ``oxford_pets`` or ``mask_folder``.
        root: where files lie or are downloaded to; for ``mask_folder`` the folder itself.
        image_size: height and width in pixels, such as [48, 96], or one number for both; None keeps the source's own.
        resize: how images and masks of another size are brought to it: ``stretch`` scales each axis on its own, ``pad``
            scales to fit and puts black around, which belongs to no class; both are undone for predicted masks.
            ``crop`` is refused, since it would leave a part of the input without a mask.
        batch_size: samples per batch and process.
        eval_batch_size: samples per batch of validation, test and prediction; None for `batch_size`.
        val_size: samples for validation (int), or their share (float below 1).
        test_size: the same for the test part; a source with parts of its own keeps them.
        split_seed: another seed gives another split.
        augment: applied to training images and masks together.
        mask_names: names of the pixels' classes in a ``mask_folder``; None numbers them.
        mask_values: the value of each class in the mask files, such as [0, 128, 64]; None for 0, 1, 2, ...
        num_workers: processes per loader that fetch ahead; 0 fetches in the training process.
        on_error: ``skip`` leaves bad samples out and lists them, ``raise`` stops at the first.
        predict_paths: images to predict, as files, folders, patterns or .txt lists; None predicts the test part.
    """

    ids = delegated("parts.images.ids")
    labels = delegated("parts.images.labels")
    groups = delegated("parts.images.groups")
    label_names = delegated("parts.images.label_names")
    terms = delegated("parts.images.terms")
    num_classes = delegated("parts.images.num_classes")
    mask_names = delegated("parts.mask_names")
    channels = delegated("parts.images.channels")
    shape = delegated("parts.images.shape")
    normalisation = delegated("parts.images.normalisation")
    sizes = delegated("parts.images.sizes")
    raw_inputs = delegated("parts.images.raw_inputs")
    raw_masks = delegated("parts.raw_masks")

    def __init__(
        self,
        source: str = "digits_on_photos",
        root: str = "data",
        image_size: ImageSize | None = None,
        resize: Resize = "stretch",
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        val_size: int | float = 0.1,
        test_size: int | float = 0.2,
        split_seed: int = 0,
        augment: Albumentations | None = None,
        mask_names: list[str] | None = None,
        mask_values: list[int] | None = None,
        num_workers: int = 0,
        on_error: OnError = "raise",
        predict_paths: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.parts = MaskSplits(
            source, root, image_size, on_error, val_size, test_size, split_seed, mask_names, mask_values, resize
        )
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.augment, self.num_workers, self.predict_paths = augment, num_workers, predict_paths

    @property
    def is_open(self) -> bool:
        """Whether classes are known already; new files are predicted with those of the checkpoint alone."""
        return not (self.predict_paths and self.trainer and self.trainer.predicting)

    def prepare_data(self) -> None:
        """Downloads what is missing, unless new files alone are to be predicted."""
        if self.is_open:
            self.parts.prepare()

    def setup(self, stage: str) -> None:
        """Opens and splits the source; prediction of new files needs only the checkpoint."""
        restore_first(self)
        if self.is_open:
            self.parts.open()

    def train_dataloader(self) -> BatchLoader:
        """Shuffled and augmented; each batch has a ``rank_weight``."""
        return self.parts.train_loader(self.trainer, self.batch_size, self.augment, self.num_workers)

    def val_dataloader(self) -> BatchLoader:
        """Each validation sample once."""
        return self.parts.eval_loader(self.trainer, "val", self.eval_batch_size, self.num_workers)

    def test_dataloader(self) -> BatchLoader:
        """Each test sample once."""
        return self.parts.eval_loader(self.trainer, "test", self.eval_batch_size, self.num_workers)

    def predict_dataloader(self) -> BatchLoader:
        """The new files, or each test sample once."""
        if self.predict_paths is None:
            return self.test_dataloader()
        return self.files_dataloader(self.predict_paths)

    def files_dataloader(self, paths: Sequence[str]) -> BatchLoader:
        """New files, as `predict` reads them."""
        return self.parts.files_loader(self.trainer, paths, self.eval_batch_size, self.num_workers)

    def calibration_dataloader(self) -> BatchLoader:
        """Shuffled training samples without augmentation, as an int8 export needs them."""
        return self.parts.train_loader(self.trainer, self.batch_size)

    def state_dict(self) -> dict[str, Any]:
        """Normalisation, image shape, label and mask names, which new images need."""
        return self.parts.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what the checkpoint was trained with; other classes or shapes are a UserError."""
        self.parts.load_state_dict(state_dict)

    def with_split(self, train_ids: Sequence[str], val_ids: Sequence[str]) -> Self:
        """The same data with other training and validation parts, normalised anew."""
        anew = copy.copy(self)
        anew.parts = self.parts.with_split(train_ids, val_ids)
        return anew
