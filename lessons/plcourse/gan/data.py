"""Real images in [-1, 1], the range of a generator's tanh, and the seeds to generate from."""

from plcourse.data import (
    Augmentation,
    BatchLoader,
    ImageData,
    ImageSize,
    Normalization,
    OnError,
    Process,
    Resize,
    eval_loader,
)
from plcourse.data.names import restore_first
from plcourse.gan.latents import Seeds

SYMMETRIC = Normalization([0.5], [0.5])  # pixels of [0, 1] to [-1, 1]


class RealImages(ImageData):
    """Images in [-1, 1] for training and scoring a generator; see `ImageData` for the other arguments.

    Args:
        predict_samples: samples to generate in `predict`, from the seeds 0, 1, 2, ...
        predict_seeds: the seeds to generate from instead; a sample can be generated again from its seed.
    """

    fixed_normalization = SYMMETRIC

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
        predict_samples: int = 64,
        predict_seeds: list[int] | None = None,
    ) -> None:
        split = (val_size, test_size, split_seed)
        super().__init__(source, root, image_size, resize, batch_size, *split, augment, num_workers, on_error)
        self.seeds = Seeds(range(predict_samples) if predict_seeds is None else predict_seeds)

    def setup(self, stage: str) -> None:
        """Opens and splits the source; a prediction needs only the checkpoint."""
        restore_first(self)
        if stage != "predict":
            self.splits.open()

    def predict_dataloader(self) -> BatchLoader:
        """Each seed once."""
        return eval_loader(self.seeds, self.batch_size, Process.of(self.trainer))
