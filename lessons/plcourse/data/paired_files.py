"""Image files with a mask file each, checked against each other before training."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import torch

from plcourse.data.image_files import ImageFiles
from plcourse.data.image_folder import DecodedCache, FolderSource
from plcourse.data.mask_files import IGNORE, MaskFile, fitted, read_mask, smeared, turns
from plcourse.data.resize import ImageSize, Resize, window_of
from plcourse.data.sources import OnError
from plcourse.errors import UserError

_NO_PIXELS = np.empty((0, 0), np.uint8)


class PairedFiles(FolderSource):
    """Image files with a mask file each; `open` checks the pairs. See `MaskSource` for the attributes.

    Two masks of one image count as one sample, because `hashes` only looks at the image.

    Attributes:
        values: a mask file for each value that the masks have.
    """

    mask_names: list[str]
    values: dict[int, Path]

    @classmethod
    def open(
        cls,
        name: str,
        files: ImageFiles,
        image_size: ImageSize | None,
        on_error: OnError,
        resize: Resize,
        mask_values: Sequence[int] | None = None,
    ) -> Self:
        """Opens the images whose masks can be used; `set_classes` must follow.

        Args:
            name: the source's name.
            files: images and masks.
            image_size: height and width to resize to, or one number for both.
            on_error: ``skip`` leaves out samples whose image or mask is bad, ``raise`` stops at the first.
            resize: ``stretch`` or ``pad``, so that a mask still covers its image.
            mask_values: the values that the user lists as classes.

        Raises:
            UserError: a bad image or mask, or no good one.
        """
        with ThreadPoolExecutor(8) as pool:
            masks = dict(zip(files.ids, pool.map(_inspect, files.masks), strict=True))
        path_of = dict(zip(files.ids, files.masks, strict=True))
        rejected: dict[str, str] = {}

        def reject(each: str, reason: str) -> None:
            if on_error == "raise":
                raise UserError(
                    f"the mask '{path_of[each]}' is wrong: {reason}; repair it, or leave such samples out with "
                    "--data.init_args.on_error=skip"
                )
            rejected[each] = reason

        def opened() -> Self:
            kept = [i for i, each in enumerate(files.ids) if each not in rejected]
            if not kept:
                each, reason = next(iter(rejected.items()))
                raise UserError(f"none of {len(masks)} masks can be used; the first is '{path_of[each]}': {reason}")
            # one model for gray and color: a gray image has three equal channels
            return cls(name, files.take(kept), files.label_names, None, image_size, on_error, 3, resize)

        wrong = {i: mask.error for i, mask in enumerate(masks.values()) if mask.error}
        wrong |= smeared(list(masks.values()), mask_values)
        for i in sorted(wrong):
            reject(files.ids[i], wrong[i])
        source = opened()
        turn_of, notes = turns([masks[each] for each in source.ids], source.sizes, source.orientations, name)
        misfits = [row for row, turn in enumerate(turn_of) if turn is None]
        for row in misfits:
            reject(source.ids[row], _misfit(masks[source.ids[row]], source, row))
        if misfits:
            source = opened()
        source._set_masks(path_of, [turn for turn in turn_of if turn is not None])
        source.values = {value: path_of[each] for each in source.ids for value in masks[each].values}
        source.notes += notes
        source.rejected = [*((str(path_of[each]), reason) for each, reason in rejected.items()), *source.rejected]
        return source

    def _set_masks(self, path_of: Mapping[str, Path], turn_of: Sequence[int]) -> None:
        self._mask_paths, self._turn_of = [path_of[each] for each in self.ids], turn_of
        self._mask_cache = DecodedCache(len(self.ids), self.shape[1:])

    def set_classes(self, lookup: np.ndarray, names: Sequence[str]) -> None:
        """Says which value in a mask file is which class: `lookup` is uint8 [256], `names` has one name per class."""
        self._lookup, self.mask_names = lookup, list(names)
        self._mask_cache.clear()

    def renumber_masks(self, lookup: np.ndarray, names: Sequence[str]) -> None:
        """Gives the classes of pixels other numbers: `lookup` (uint8 [256]) has the new ones, `names` their names."""
        self.set_classes(lookup[self._lookup], names)

    def read_masks(self, indices: np.ndarray) -> torch.Tensor:
        """The masks at `indices` (int64 [B]) as uint8 [B, H, W], resized as the images."""
        return self._mask_cache.read(indices, self._decoded_mask)

    def read_raw_mask(self, index: int) -> torch.Tensor:
        """One mask before it is resized: uint8 [H, W]."""
        height, width = self.sizes[index].tolist()
        return self._classes(index, (height, width))

    def _decoded_mask(self, index: int) -> torch.Tensor:
        height, width = self.sizes[index].tolist()
        top, left, rows, columns = window_of(height, width, self.shape[1:], self.resize)
        mask_HW = torch.full(self.shape[1:], IGNORE, dtype=torch.uint8)
        mask_HW[top : top + rows, left : left + columns] = self._classes(index, (rows, columns))
        return mask_HW

    def _classes(self, index: int, size: tuple[int, int]) -> torch.Tensor:
        found = read_mask(self._mask_paths[index])
        if found.error:
            raise UserError(f"cannot read the mask '{self._mask_paths[index]}': {found.error}; repair or remove it")
        return torch.from_numpy(self._lookup[fitted(found, self._turn_of[index], size)])


def _inspect(path: Path) -> MaskFile:
    return replace(read_mask(path), pixels=_NO_PIXELS)


def _misfit(mask: MaskFile, source: FolderSource, row: int) -> str:
    (height, width), orientation = source.sizes[row].tolist(), int(source.orientations[row])
    shown = f" as shown, turned by its EXIF orientation {orientation}" if orientation > 1 else ""
    return "it is {} x {} pixels".format(*mask.size) + f" and its image {height} x {width}{shown}"
