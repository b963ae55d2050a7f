"""The data module for labeled images, on which the lessons' own image data modules are built."""

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import pytorch_lightning as pl

from plcourse.data.image_splits import ImageSplits
from plcourse.data.images import Normalization
from plcourse.data.loader import BatchLoader
from plcourse.data.names import restore_first
from plcourse.data.resize import ImageSize, Resize
from plcourse.data.source_splits import delegated
from plcourse.data.sources import OnError
from plcourse.data.transforms import Augmentation


class ImageData(pl.LightningDataModule):
    """Labeled images of any source, for training, evaluation and prediction; satisfies `Splittable`.

    Batches are dicts of ``image`` (normalized float32 [B, C, H, W]), ``label`` (int64 [B], -1 for new files) and ``id``
    (B strings).

    Args:
        source: ``digits``, ``mnist5k``, ``mnist``, ``fashion_mnist``, ``cifar10`` or ``image_folder``.
        root: where files lie or are downloaded to; for ``image_folder`` the folder itself.
        image_size: height and width in pixels, such as [48, 96], or one number for both; None keeps the source's own.
        resize: how images of another size are resized: ``crop`` scales the image to cover the size and cuts off what
            sticks out, ``stretch`` scales each axis separately, ``pad`` scales the image to fit and fills the rest with
            black.
        batch_size: training samples per batch and process.
        val_size: samples for validation (int), or their fraction (float below 1).
        test_size: the same for the test part; a source that comes with a test part keeps it.
        split_seed: another seed gives another split.
        augment: applied to training images, in this order.
        num_workers: processes per loader that fetch ahead; 0 fetches in the training process.
        on_error: ``skip`` leaves unreadable training data out and lists them, ``raise`` stops at the first.
        predict_paths: images to predict, as files, folders, patterns or .txt lists; None predicts the test part.

    Attributes:
        splits: the source with its split, and what was fitted to the training part.
    """

    fixed_normalization: ClassVar[Normalization | None] = None  # None fits it to the training part

    ids = delegated("splits.ids")
    labels = delegated("splits.labels")
    groups = delegated("splits.groups")
    sizes = delegated("splits.sizes")
    label_names = delegated("splits.label_names")
    num_classes = delegated("splits.num_classes")
    channels = delegated("splits.channels")
    shape = delegated("splits.shape")
    raw_inputs = delegated("splits.raw_inputs")
    terms = delegated("splits.terms")

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
        on_error: OnError = "raise",
        predict_paths: list[str] | None = None,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True
        sizes = (val_size, test_size, split_seed)
        self.splits = ImageSplits(source, root, image_size, on_error, *sizes, self.fixed_normalization, resize)
        self.batch_size = self.eval_batch_size = batch_size
        self.augment: Any = augment
        self.num_workers, self.predict_paths = num_workers, predict_paths

    def prepare_data(self) -> None:
        """Downloads what is missing, unless only new files are predicted."""
        if not (self.predict_paths and self.trainer and self.trainer.predicting):
            self.splits.prepare()

    def setup(self, stage: str) -> None:
        """Opens and splits the source; the prediction of new files needs only the checkpoint."""
        restore_first(self)
        if not (self.predict_paths and stage == "predict"):
            self.splits.open()

    def train_dataloader(self) -> BatchLoader:
        """Shuffled and augmented; each batch has a ``rank_weight``."""
        return self.splits.train_loader(self.trainer, self.batch_size, self.augment, self.num_workers)

    def val_dataloader(self) -> BatchLoader:
        """Each validation sample once."""
        return self.splits.eval_loader(self.trainer, "val", self.eval_batch_size, self.num_workers)

    def test_dataloader(self) -> BatchLoader:
        """Each test sample once."""
        return self.splits.eval_loader(self.trainer, "test", self.eval_batch_size, self.num_workers)

    def predict_dataloader(self) -> BatchLoader:
        """The new files, or each test sample once."""
        return self.test_dataloader() if self.predict_paths is None else self.files_dataloader(self.predict_paths)

    def files_dataloader(self, paths: Sequence[str]) -> BatchLoader:
        """New files, as `predict` reads them."""
        return self.splits.files_loader(self.trainer, paths, self.eval_batch_size, self.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """What the model must know to read new inputs: for images normalization, shape and label names."""
        return self.splits.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what the checkpoint was trained with; other classes or shapes are a UserError."""
        self.splits.load_state_dict(state_dict)

    def with_split(self, train_ids: Sequence[str], val_ids: Sequence[str]) -> Self:
        """The same data with another training and validation part; normalization is fitted again."""
        resplit = copy.copy(self)
        resplit.splits, resplit.trainer = self.splits.with_split(train_ids, val_ids), None
        return resplit
