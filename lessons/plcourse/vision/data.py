"""Images with a class and a mask each: batches of ``image``, ``mask``, ``label``, ``size``, ``window`` and ``id``."""

from plcourse.data import BatchLoader, ImageData, ImageSize, MaskSplits, OnError, Resize, delegated
from plcourse.vision.augment import Albumentations


class VisionData(ImageData):
    """Images with masks, for training, evaluation and prediction; see `ImageData` for the other arguments.

    Args:
        source: ``digits_on_photos``, ``oxford_pets`` or ``mask_folder``.
        root: where files lie or are downloaded to; for ``mask_folder`` the folder itself.
        resize: how images and masks of another size are resized: ``stretch`` scales each axis separately, ``pad``
            scales them to fit and fills the rest with black, which belongs to no class; both are undone for predicted
            masks. ``crop`` is refused, because it would leave a part of the input without a mask.
        eval_batch_size: samples per batch of validation, test and prediction; None for `batch_size`.
        augment: applied to training images together with their masks.
        mask_names: names of the pixels' classes in a ``mask_folder``; None numbers them.
        mask_values: the value of each class in the mask files, such as [0, 128, 64]; None for 0, 1, 2, ...
    """

    mask_names = delegated("splits.mask_names")
    normalization = delegated("splits.normalization")
    raw_masks = delegated("splits.raw_masks")

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
        split = (val_size, test_size, split_seed)
        splits = MaskSplits(source, root, image_size, on_error, *split, mask_names, mask_values, resize)
        super().__init__(
            source, root, image_size, resize, batch_size, *split, None, num_workers, on_error, predict_paths
        )
        self.splits, self.augment = splits, augment
        self.eval_batch_size = eval_batch_size or batch_size

    @property
    def is_open(self) -> bool:
        """Whether the classes are those of the data; new files are predicted with the checkpoint's classes alone."""
        return not (self.predict_paths and self.trainer and self.trainer.predicting)

    def calibration_dataloader(self) -> BatchLoader:
        """Shuffled training samples without augmentation, as an int8 export needs them."""
        return self.splits.train_loader(self.trainer, self.batch_size)
