"""Labelled images for curricula: scored before training, with label noise where it is asked for."""

from collections.abc import Sequence

import numpy as np

from plcourse.data import (
    Augmentation,
    BatchLoader,
    ImageData,
    ImageDataset,
    ImageSize,
    Process,
    Resize,
    eval_loader,
    keys_of,
    run_seed,
    train_loader,
    uniforms,
)


class CurriculumData(ImageData):
    """Labelled images whose training part can be scored; see `ImageData` for the other arguments.

    Args:
        label_noise: the fraction of training labels that are replaced by another class, from 0 to below 1;
            validation and test labels stay correct.
        noise_seed: another seed changes other labels.
        augment: applied to training images, in this order; never to images that are scored.

    Raises:
        ValueError: `label_noise` is out of its range.
    """

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
        if not 0 <= label_noise < 1:
            raise ValueError(f"label_noise is {label_noise}; it must be a fraction from 0 to below 1")
        split = (val_size, test_size, split_seed)
        super().__init__(
            source, root, image_size, resize, batch_size, *split, augment, num_workers, "raise", predict_paths
        )
        self.label_noise, self.noise_seed = label_noise, noise_seed

    def train_dataloader(self) -> BatchLoader:
        """Shuffled and augmented; each batch has a ``rank_weight``."""
        return train_loader(self._training(self.augment), self.batch_size, Process.of(self.trainer), self.num_workers)

    def scoring_dataloader(self) -> BatchLoader:
        """Each training sample once, in order, not augmented; every process gets all of them."""
        return eval_loader(self._training(), self.batch_size, Process())

    def _training(self, augment: Sequence[Augmentation] | None = None) -> ImageDataset:
        splits = self.splits
        indices, keys = splits.parts["train"], keys_of(splits.ids_of("train"))
        clean = splits.source.labels[indices]
        labels = noisy_labels(clean, keys, splits.num_classes, self.label_noise, self.noise_seed)
        return ImageDataset(splits.source, indices, splits.normalization, augment, run_seed(), labels)


def noisy_labels(labels: np.ndarray, keys: np.ndarray, num_classes: int, fraction: float, seed: int) -> np.ndarray:
    """A copy of the labels (int64 [N]) in which a fraction is replaced by another class, each equally likely.

    The samples and their new labels depend on the seed and on the keys of the samples' ids (uint64 [N]) alone.
    """
    draws = uniforms(seed, 0, keys, 2)
    wrong = np.argsort(draws[:, 0], kind="stable")[: round(fraction * len(labels))]
    shift = 1 + (draws[wrong, 1] * (num_classes - 1)).astype(np.int64)
    noisy = labels.copy()
    noisy[wrong] = (noisy[wrong] + shift) % num_classes
    return noisy
