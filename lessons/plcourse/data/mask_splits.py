"""A source of images with masks, with its split, and batches of both."""

import copy
from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
import torch

from plcourse.data.image_folder import FolderSource
from plcourse.data.image_splits import ImageSplits
from plcourse.data.images import ImageDataset, Normalization
from plcourse.data.masks import MaskSource, open_masks, prepare_masks
from plcourse.data.names import adopt_mask_names
from plcourse.data.protocols import Source
from plcourse.data.resize import ImageSize, Resize, check_resize, window_of
from plcourse.data.sources import OnError


class JointAugmentation(Protocol):
    """A random change of images and their masks."""

    def __call__(
        self, images_BCHW: torch.Tensor, masks_BHW: torch.Tensor, seed: int, epoch: int, keys_B: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The changed images and masks, uint8 and of the same shapes, in new tensors.

        A sample depends on the run's seed, the epoch and its own key (uint64) alone.
        """
        ...


class MaskDataset(ImageDataset):
    """The samples of one part as batches of images and masks.

    Args:
        source: images and masks, or files without masks.
        indices: int64 [N], the part's samples in the source.
        normalization: fitted to the training part.
        augment: applied to training samples; None for evaluation.
        seed: the run's seed, for the augmentation.
        resize: the rule by which the source resizes.
    """

    def __init__(
        self,
        source: MaskSource | FolderSource,
        indices: np.ndarray,
        normalization: Normalization,
        augment: JointAugmentation | None = None,
        seed: int = 0,
        resize: Resize = "stretch",
    ) -> None:
        super().__init__(source, indices, normalization, seed=seed)
        self._joint = augment
        self._masked = cast(MaskSource, source) if hasattr(source, "read_masks") else None
        self._sizes = torch.from_numpy(source.sizes[indices])
        windows = [window_of(h, w, source.shape[1:], resize) for h, w in self._sizes.tolist()]
        self._windows = torch.tensor(windows).reshape(-1, 4)

    def plain(self) -> "MaskDataset":
        """The same samples without augmentation."""
        plain = copy.copy(self)
        plain._joint = None
        return plain

    def fetch(self, indices: np.ndarray, epoch: int) -> dict[str, Any]:
        """The samples at `indices` (int64 [B]) of this part; the epoch only changes the augmentation.

        Returns:
            ``image`` float32 [B, C, H, W], ``mask`` int64 [B, H, W] (255 for no class; missing for new files),
            ``label`` int64 [B] (-1 where unknown), ``size`` int64 [B, 2], the height and width of each image before it
            was resized, ``window`` int64 [B, 4], its place in the resized image (`resize.Window`), ``id`` list of B
            str.
        """
        chosen_B = torch.from_numpy(indices)
        places = {"size": self._sizes[chosen_B], "window": self._windows[chosen_B]}
        if self._masked is None:
            return {**super().fetch(indices, epoch), **places}
        image_BCHW = self.source.read(self.indices[indices])
        mask_BHW = self._masked.read_masks(self.indices[indices])
        if self._joint is not None:
            image_BCHW, mask_BHW = self._joint(image_BCHW, mask_BHW, self.seed, epoch, self._keys[indices])
        image_BCHW = self.normalized(image_BCHW.float())
        return {"image": image_BCHW, "mask": mask_BHW.long(), **self._names(indices), **places}


class MaskSplits(ImageSplits):
    """Training, validation and test part of a source of masks; see `ImageData` for the other arguments.

    Args:
        source: one of `masks.MASK_SOURCES`.
        mask_names: names of the pixels' classes in a ``mask_folder``.
        mask_values: the value of each class in its files.
        resize: ``stretch`` or ``pad``; see `plcourse.data.resize`.
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
        mask_names: Sequence[str] | None = None,
        mask_values: Sequence[int] | None = None,
        resize: Resize = "stretch",
    ) -> None:
        check_resize(resize, masks=True)
        super().__init__(source, root, image_size, on_error, val_size, test_size, split_seed, resize=resize)
        self._mask_classes = (mask_names, mask_values)

    def prepare(self) -> None:
        """Downloads what is missing; called by one process per machine."""
        prepare_masks(self.name, self.root)

    def _open(self) -> MaskSource:
        sizes = (self.val_size, self.test_size)
        where = (self.name, self.root, self.image_size, self.on_error)
        return open_masks(*where, *self._mask_classes, sizes, self.split_seed, self._resize)

    def _adopt(self, state: dict[str, Any], source: Source) -> None:
        super()._adopt(state, source)
        adopt_mask_names(cast(MaskSource, source), state["mask_names"])

    @property
    def mask_names(self) -> list[str]:
        """One name per class of a pixel."""
        return cast(MaskSource, self.source).mask_names if self._restored is None else self._restored["mask_names"]

    def state_dict(self) -> dict[str, Any]:
        """What a model needs to know of its training data, in plain types."""
        return {**super().state_dict(), "mask_names": list(self.mask_names)}

    def raw_masks(self, ids: Sequence[str]) -> list[torch.Tensor]:
        """The masks of samples before they were resized, uint8 [H, W] each."""
        return [cast(MaskSource, self.source).read_raw_mask(self.position[each]) for each in ids]

    def dataset(
        self, source: Source, indices: np.ndarray, augment: JointAugmentation | None = None, seed: int = 0
    ) -> MaskDataset:
        """The samples at `indices` (int64 [N]) of a source with their masks; files without masks give none."""
        return MaskDataset(cast(MaskSource, source), indices, self.normalization, augment, seed, self.resize)
