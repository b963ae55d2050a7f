"""Labeled images for training and for the calibration of int8 exports."""

from plcourse.data import BatchLoader, ImageData


class ExportData(ImageData):
    """Labeled images of any source, and calibration samples; see `ImageData` for the arguments."""

    def calibration_dataloader(self) -> BatchLoader:
        """Shuffled training samples without augmentation, because an int8 range must hold for the images of real use.

        They are shuffled because a source that is sorted by class would only show the first classes.
        """
        return self.splits.train_loader(self.trainer, self.batch_size)
