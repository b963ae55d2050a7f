"""An image source with its split, and what was fitted to its training part."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from pytorch_lightning import Trainer
from torch import Tensor

from plcourse.console import say
from plcourse.data.image_folder import open_files
from plcourse.data.images import BatchDataset, ImageDataset, Normalization, Process, eval_loader, fit_normalization
from plcourse.data.loader import BatchLoader
from plcourse.data.names import adopt_classes
from plcourse.data.protocols import Source
from plcourse.data.randoms import run_seed
from plcourse.data.resize import ImageSize, Resize, check_resize, size_of
from plcourse.data.source_splits import SourceSplits
from plcourse.data.sources import OnError, open_source, prepare
from plcourse.errors import UserError

_LISTED = 10  # rejected files named in the log; all of them are in `source.rejected`


class ImageSplits(SourceSplits):
    """Training, validation and test part of an image source, opened when first needed.

    A model must see new images as it saw its training images. What that takes (normalization, shape, resizing rule,
    label names) is the `state_dict`.

    Args:
        source: one of `sources.SOURCES`; see `ImageData` for the other arguments.
        normalization: a fixed one, whose single value holds for all channels; None fits it to the training part.
    """

    fitted = ("_fitted",)

    def __init__(
        self,
        source: str,
        root: str = "data",
        image_size: ImageSize | None = None,
        on_error: OnError = "raise",
        val_size: int | float = 0.1,
        test_size: int | float = 0.2,
        split_seed: int = 0,
        normalization: Normalization | None = None,
        resize: Resize = "crop",
    ) -> None:
        super().__init__(val_size, test_size, split_seed)
        check_resize(resize)
        if image_size is not None:
            size_of(image_size)
        self._fixed = normalization
        self._resize: Resize = resize
        self.name, self.root, self.image_size = source, root, image_size
        self.on_error: OnError = on_error

    def prepare(self) -> None:
        """Downloads what is missing; called by one process per machine."""
        prepare(self.name, self.root)

    def _open(self) -> Source:
        return open_source(self.name, self.root, self.image_size, self.on_error, self._resize)

    @cached_property
    def source(self) -> Source:
        """The opened source; a UserError if it differs in classes or shape from what the checkpoint was trained on."""
        source = self._open()
        report_rejected(source)
        if self._restored is not None:
            self._adopt(self._restored, source)
        return source

    @cached_property
    def _fitted(self) -> Normalization:
        return self._fixed or fit_normalization(self.source, self.parts["train"])

    @property
    def normalization(self) -> Normalization:
        """The checkpoint's where one was loaded, else fitted to the training part."""
        if self._restored is not None:
            return Normalization(self._restored["mean"], self._restored["std"])
        return self._fitted

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        if self._restored is None:
            return self.source.shape
        channels, height, width = self._restored["shape"]
        return channels, height, width

    @property
    def resize(self) -> Resize:
        """How an image of another size is brought to `shape`: the checkpoint's rule where one was loaded."""
        return self._resize if self._restored is None else self._restored.get("resize", self._resize)

    @property
    def depth(self) -> int:
        """Bits of the values of 16-bit files, see `FolderSource`; 0 where the model only knows 8-bit images."""
        if self._restored is not None:
            return self._restored.get("depth", 16)  # 16 was assumed before it was recorded
        return getattr(self.source, "depth", 0)

    @property
    def channels(self) -> int:
        """1 for gray, 3 for color."""
        return self.shape[0]

    def state_dict(self) -> dict[str, Any]:
        """What a model needs to know of its training data, in plain types."""
        return {
            "mean": self.normalization.mean,
            "std": self.normalization.std,
            "shape": list(self.shape),
            "resize": self.resize,
            "depth": self.depth,
            "label_names": list(self.label_names),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what a checkpoint was trained with; an open source of other classes or shapes is a UserError."""
        if "source" in self.__dict__:
            self._adopt(state, self.source)
        self._restored = state

    def raw_inputs(self, ids: Sequence[str]) -> list[Tensor]:
        """The images of samples before they were resized, uint8 [C, H, W] each."""
        return [self.source.read_raw(self.position[each]) for each in ids]

    def dataset(self, source: Source, indices: np.ndarray, augment: Any = None, seed: int = 0) -> BatchDataset:
        """The samples at `indices` (int64 [N]) of a source, normalized as the model was trained."""
        return ImageDataset(source, indices, self.normalization, augment, seed)

    def dataset_of(self, part: str, augment: Any = None) -> BatchDataset:
        """The samples of a part, with the augmentation of training samples where it is given."""
        return self.dataset(self.source, self.parts[part], augment, run_seed())

    def files_loader(
        self, trainer: Trainer | None, paths: Sequence[str], batch_size: int, num_workers: int = 0
    ) -> BatchLoader:
        """New files without labels, read as the training images were; see `open_files`."""
        files = open_files(paths, self.shape, self.on_error, self.resize, self.depth)
        report_rejected(files)
        data = self.dataset(files, np.arange(len(files.ids)))
        return eval_loader(data, batch_size, Process.of(trainer), num_workers)

    @property
    def terms(self) -> dict[str, Any]:
        """The source and how it is split, in plain types."""
        return {"source": self.name, "root": str(self.root), **self.split_terms}

    def _adopt(self, state: dict[str, Any], source: Source) -> None:
        """Numbers the classes as the model knows them, and refuses images of another shape."""
        adopt_classes(source, state["label_names"])
        for what, there, here in (
            ("images of shape", state["shape"], list(source.shape)),
            ("images resized by", state.get("resize", self._resize), self._resize),
        ):
            if there != here:
                raise UserError(f"the checkpoint was trained on {what} {there}, but {source.name} has {here}")
        if use_depth := getattr(source, "use_depth", None):  # a source of files
            use_depth(state.get("depth", 16))


def report_rejected(source: Source) -> None:
    """Prints which files were left out, and how files were read that can be read in two ways."""
    for note in getattr(source, "notes", ()):
        say(note)
    if source.rejected:
        listed = "; ".join(f"{path} ({reason})" for path, reason in source.rejected[:_LISTED])
        say(f"{source.name}: {len(source.rejected)} unreadable files left out: {listed}")
