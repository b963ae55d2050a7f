"""What a checkpoint knows by name, applied to other data by name: classes, classes of pixels, columns.

A model answers with numbers. Which number is which class, and which input is which column, was decided by the data that
it was trained on. Other data may have the same names in another order, or some of them only.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pytorch_lightning as pl

from plcourse.data.part_names import normal
from plcourse.data.protocols import Labelled
from plcourse.errors import UserError, nearest

_SHOWN = 10  # names listed in a message


class _Masked(Protocol):
    name: str
    mask_names: list[str]

    def renumber_masks(self, lookup: np.ndarray, names: Sequence[str]) -> None: ...


def restore_first(data: pl.LightningDataModule) -> None:
    """Gives a data module the state that its checkpoint has, before it opens its files.

    Lightning restores a data module after its ``setup``; columns and classes that a model knows must be known before a
    table is read and split. To be called first in ``setup``; without a `plcourse.Trainer` or a checkpoint it does
    nothing, and the state comes when Lightning restores it.
    """
    restore = getattr(data.trainer, "restore_data_first", None)
    if restore is not None:
        restore(data)


def adopt_classes(source: Labelled, names: Sequence[str]) -> None:
    """Numbers the classes of a source as a model was trained on them, in place.

    Args:
        source: its classes may be a part of `names`, in any order.
        names: the model's classes.

    Raises:
        UserError: a sample is of a class that the model does not know.
    """
    if source.label_names == list(names):
        return
    labelled = source.labels >= 0
    used = [source.label_names[number] for number in np.unique(source.labels[labelled]).tolist()]
    numbers = _numbers(source.name, "class", used, source.label_names, names)
    source.labels = np.where(labelled, numbers[source.labels], -1)
    source.label_names = list(names)


def adopt_mask_names(source: _Masked, names: Sequence[str]) -> None:
    """Numbers the classes of pixels as a model was trained on them, in place; see `adopt_classes`.

    Raises:
        UserError: the masks have a class that the model does not know.
    """
    if source.mask_names == list(names):
        return
    numbers = _numbers(source.name, "class of pixels", source.mask_names, source.mask_names, names)
    lookup = np.arange(256, dtype=np.uint8)  # what has no name, such as a pixel of no class, keeps its number
    lookup[: len(numbers)] = numbers
    source.renumber_masks(lookup, names)


def _numbers(source: str, what: str, used: Sequence[str], own: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """The model's number of each of a source's own names, int64; -1 for one that is not used."""
    number_of = {normal(name): number for number, name in enumerate(known)}
    if unknown := next((name for name in used if normal(name) not in number_of), None):
        raise UserError(
            f"{source} has the {what} '{unknown}', which the checkpoint was not trained on; it was trained on "
            f"{listed(known)}{nearest(unknown, known)}"
        )
    return np.array([number_of.get(normal(name), -1) for name in own], np.int64)


def listed(names: Sequence[str]) -> str:
    """Names for a message; the last of many are counted."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(str, names[:_SHOWN])) + more
