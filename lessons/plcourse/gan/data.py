"""Real images in [-1, 1], the range of a generator's tanh, and the seeds that are predicted from."""

from typing import Any, Literal

import pytorch_lightning as pl

from plcourse.data import (
    Augmentation,
    BatchLoader,
    ImageSize,
    ImageSplits,
    Normalisation,
    Process,
    Resize,
    delegated,
    eval_loader,
)
from plcourse.data.names import restore_first
from plcourse.gan.latents import Seeds

SYMMETRIC = Normalisation([0.5], [0.5])  # pixels of [0, 1] to [-1, 1]


class RealImages(pl.LightningDataModule):
    """Any image source for training and scoring a generator; batches as of `ImageData`, but in [-1, 1].

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
        augment: applied to training images, in this order.
        num_workers: processes per loader that fetch ahead; 0 fetches in the training process.
        on_error: ``skip`` leaves unreadable files out and lists them, ``raise`` stops at the first.
        predict_samples: samples to generate in `predict`, from the seeds 0, 1, 2, ...
        predict_seeds: the seeds to generate from instead; any one sample can be made again.
    """

    sizes = delegated("images.sizes")
    label_names = delegated("images.label_names")
    terms = delegated("images.terms")
    shape = delegated("images.shape")

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
        predict_samples: int = 64,
        predict_seeds: list[int] | None = None,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.images = ImageSplits(
            source, root, image_size, on_error, val_size, test_size, split_seed, SYMMETRIC, resize=resize
        )
        self.batch_size, self.augment, self.num_workers = batch_size, augment, num_workers
        self.seeds = Seeds(range(predict_samples) if predict_seeds is None else predict_seeds)

    def prepare_data(self) -> None:
        """Downloads what is missing."""
        self.images.prepare()

    def setup(self, stage: str) -> None:
        """Opens and splits the source; a prediction needs only the checkpoint."""
        restore_first(self)
        if stage != "predict":
            self.images.open()

    def train_dataloader(self) -> BatchLoader:
        """Shuffled and augmented; each batch has a ``rank_weight``."""
        return self.images.train_loader(self.trainer, self.batch_size, self.augment, self.num_workers)

    def val_dataloader(self) -> BatchLoader:
        """Each validation sample once."""
        return self.images.eval_loader(self.trainer, "val", self.batch_size, self.num_workers)

    def test_dataloader(self) -> BatchLoader:
        """Each test sample once."""
        return self.images.eval_loader(self.trainer, "test", self.batch_size, self.num_workers)

    def predict_dataloader(self) -> BatchLoader:
        """Each seed once."""
        return seed_loader(self.seeds, self.batch_size, self.trainer)

    def state_dict(self) -> dict[str, Any]:
        """Image shape and label names, which a prediction needs."""
        return self.images.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what the checkpoint was trained with; other classes or shapes are a UserError."""
        self.images.load_state_dict(state_dict)


def seed_loader(seeds: Seeds, batch_size: int, trainer: pl.Trainer | None) -> BatchLoader:
    """Batches of ``seed`` int64 [B] and ``id``, each seed on one process."""
    return eval_loader(seeds, batch_size, Process.of(trainer))
