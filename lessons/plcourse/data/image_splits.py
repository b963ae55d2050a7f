"""A source with its split and what was fitted to its training part: the heart of every image data module."""

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from operator import attrgetter
from typing import Any, Self

import numpy as np
from pytorch_lightning import Trainer
from torch import Tensor

from plcourse.console import say
from plcourse.data.image_folder import FolderSource, open_files
from plcourse.data.images import (
    ImageDataset,
    Normalisation,
    Process,
    eval_loader,
    fit_normalisation,
    train_loader,
)
from plcourse.data.loader import BatchLoader
from plcourse.data.names import adopt_classes
from plcourse.data.protocols import Source
from plcourse.data.randoms import run_seed
from plcourse.data.resize import ImageSize, Resize, check_resize, size_of
from plcourse.data.sources import OnError, open_source, prepare
from plcourse.data.splits import check_classes, duplicate_groups, split, training_parts
from plcourse.data.transforms import Augmentation
from plcourse.errors import UserError

_LISTED = 10  # rejected files named in the log; all of them are in `source.rejected`


class ImageSplits:
    """Training, validation and test part of an image source, opened when first needed.

    A model must see new images as it saw those it was trained on. What that takes (normalisation, shape,
    label names) is `state_dict`, which goes into the checkpoint; once loaded, new files are read without the
    training data.

    Args:
        source: one of `sources.SOURCES`.
        root: where files lie; see `open_source`.
        image_size: height and width in pixels, or one number for both; None keeps the source's own.
        on_error: ``skip`` leaves unreadable files out and lists them.
        val_size: samples (int) or share (float) for validation; see `split`.
        test_size: the same for the test part.
        split_seed: another seed gives another split.
        normalisation: a fixed one, whose single value holds for all channels; None fits it to the training part.
        opener: opens a source that `open_source` does not know, in place of it.
        resize: how images of another size are brought to it; see `plcourse.data.resize`.
    """

    def __init__(
        self,
        source: str,
        root: str = "data",
        image_size: ImageSize | None = None,
        on_error: OnError = "raise",
        val_size: int | float = 0.1,
        test_size: int | float = 0.2,
        split_seed: int = 0,
        normalisation: Normalisation | None = None,
        opener: Callable[[], Source] | None = None,
        resize: Resize = "crop",
    ) -> None:
        check_resize(resize)
        if image_size is not None:
            size_of(image_size)
        self._fixed, self._opener = normalisation, opener
        self._resize: Resize = resize
        self.name, self.root, self.image_size = source, root, image_size
        self.on_error: OnError = on_error
        self.val_size, self.test_size, self.split_seed = val_size, test_size, split_seed
        self._restored: dict[str, Any] | None = None

    def prepare(self) -> None:
        """Downloads what is missing; for one process per machine."""
        prepare(self.name, self.root)

    def open(self) -> None:
        """Opens and splits the source now instead of at its first use, so that its errors come early."""
        _ = self.parts

    @cached_property
    def source(self) -> Source:
        """The opened source.

        Raises:
            UserError: it cannot be opened, or is not what the loaded checkpoint was trained on.
        """
        if self._opener is not None:
            source = self._opener()
        else:
            source = open_source(self.name, self.root, self.image_size, self.on_error, self._resize)
        report_rejected(source)
        if self._restored is not None:
            self._adopt(self._restored, source)
            _use_depth(self._restored, source)
        return source

    @cached_property
    def parts(self) -> dict[str, np.ndarray]:
        """Sorted int64 index arrays by ``train``, ``val``, ``test``."""
        parts = split(self.source, self.val_size, self.test_size, self.split_seed)
        if self._restored is None:
            check_classes(parts, self.source)
        return parts

    @cached_property
    def _fitted(self) -> Normalisation:
        if self._fixed is not None:
            return self._fixed
        return fit_normalisation(self.source, self.parts["train"])

    @property
    def normalisation(self) -> Normalisation:
        """The checkpoint's where one was loaded, else fitted to the training part."""
        if self._restored is not None:
            return Normalisation(self._restored["mean"], self._restored["std"])
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
        """Bits of the values of 16-bit files, see `FolderSource`; 0 where the model knows 8-bit images alone."""
        if self._restored is not None:
            return self._restored.get("depth", 16)  # what was taken for granted before it was recorded
        return getattr(self.source, "depth", 0)

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return self.shape[0]

    @property
    def label_names(self) -> list[str]:
        """One name per class."""
        return self.source.label_names if self._restored is None else self._restored["label_names"]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.label_names)

    def state_dict(self) -> dict[str, Any]:
        """What a model needs of its training data, in plain types."""
        mean, std = self.normalisation.mean, self.normalisation.std
        names = list(self.label_names)
        return {
            "mean": mean,
            "std": std,
            "shape": list(self.shape),
            "resize": self.resize,
            "depth": self.depth,
            "label_names": names,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what a checkpoint was trained with.

        Raises:
            UserError: the source is open already and has a class that the model does not know, or another image shape.
        """
        if "source" in self.__dict__:
            self._adopt(state, self.source)
            _use_depth(state, self.source)
        self._restored = state

    def raw_inputs(self, ids: Sequence[str]) -> list[Tensor]:
        """The images of samples before they were resized, uint8 [C, H, W] each."""
        return [self.source.read_raw(self.position[each]) for each in ids]

    @cached_property
    def position(self) -> dict[str, int]:
        """The number of each sample in the source, by its id."""
        return {each: i for i, each in enumerate(self.source.ids)}

    def train_loader(
        self,
        trainer: Trainer | None,
        batch_size: int,
        augment: Sequence[Augmentation] | None = None,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> BatchLoader:
        """Shuffled, augmented batches of the training part, `batch_size` samples per process."""
        part = ImageDataset(self.source, self.parts["train"], self.normalisation, augment, run_seed())
        return train_loader(part, batch_size, Process.of(trainer), num_workers, drop_last)

    def eval_loader(self, trainer: Trainer | None, part: str, batch_size: int, num_workers: int = 0) -> BatchLoader:
        """Each sample of `part` (``val``, ``test``, or ``train`` to score it) once, in order."""
        data = ImageDataset(self.source, self.parts[part], self.normalisation)
        return eval_loader(data, batch_size, Process.of(trainer), num_workers, part)

    def files_loader(
        self, trainer: Trainer | None, paths: Sequence[str], batch_size: int, num_workers: int = 0
    ) -> BatchLoader:
        """New files without labels, scaled and normalised as the model was trained; see `open_files`."""
        files: FolderSource = open_files(paths, self.shape, self.on_error, self.resize, self.depth)
        report_rejected(files)
        data = ImageDataset(files, np.arange(len(files.ids)), self.normalisation)
        return eval_loader(data, batch_size, Process.of(trainer), num_workers)

    @property
    def terms(self) -> dict[str, Any]:
        """How the samples are split, in plain types."""
        sizes = {"val_size": self.val_size, "test_size": self.test_size}
        return {"source": self.name, "root": str(self.root), **sizes, "split_seed": self.split_seed}

    @property
    def _pool(self) -> np.ndarray:
        """The samples that may be split anew: all but the test part."""
        return np.sort(np.concatenate([self.parts["train"], self.parts["val"]]))

    @property
    def ids(self) -> list[str]:
        """The samples for training or validation, see `Splittable`."""
        return [self.source.ids[i] for i in self._pool.tolist()]

    @property
    def labels(self) -> np.ndarray:
        """int64, the class of each of `ids`."""
        return self.source.labels[self._pool]

    @property
    def sizes(self) -> dict[str, int]:
        """Samples of each part: ``n_train``, ``n_val`` and ``n_test``."""
        return {f"n_{name}": len(indices) for name, indices in self.parts.items()}

    @property
    def groups(self) -> np.ndarray | None:
        """int64, equal for exact duplicates among `ids`; None where there are none."""
        return duplicate_groups(self.source.hashes[self._pool])

    def with_split(self, train_ids: Sequence[str], val_ids: Sequence[str]) -> Self:
        """The same source and test part with other training and validation parts, normalised anew.

        Raises:
            ValueError: an id that is unknown or in the test part, or a sample in both lists.
        """
        parts = training_parts(self.source, self._pool, train_ids, val_ids)
        anew = copy.copy(self)
        anew.parts = {**parts, "test": self.parts["test"]}
        anew._restored = None
        anew.__dict__.pop("_fitted", None)
        return anew

    def _adopt(self, state: dict[str, Any], source: Source) -> None:
        """Numbers the classes as the model knows them, and refuses images of another shape."""
        adopt_classes(source, state["label_names"])
        for what, there, here in (
            ("images of shape", state["shape"], list(source.shape)),
            ("images resized by", state.get("resize", self._resize), self._resize),
        ):
            if there != here:
                raise UserError(f"the checkpoint was trained on {what} {there}, but {source.name} has {here}")


def delegated(path: str) -> Any:
    """A read-only property that looks `path` up on the object, such as ``images.ids``.

    Typed Any, because a property made at run time would otherwise hide from type checkers what it returns.
    """
    return property(attrgetter(path))


def report_rejected(source: Source) -> None:
    """Says which files were left out, if any, and how those were read that allow two readings."""
    for note in getattr(source, "notes", ()):
        say(note)
    if source.rejected:
        listed = "; ".join(f"{path} ({reason})" for path, reason in source.rejected[:_LISTED])
        say(f"{source.name}: {len(source.rejected)} unreadable files left out: {listed}")


def _use_depth(state: dict[str, Any], source: Source) -> None:
    if use := getattr(source, "use_depth", None):  # a source of files
        use(state.get("depth", 16))
