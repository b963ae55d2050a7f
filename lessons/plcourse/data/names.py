"""Numbers the classes of data as the checkpoint's training data did.

A model answers with numbers, whose meaning was decided by its training data. Other data may have the same classes in
another order, or only some of them.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pytorch_lightning as pl

from plcourse.data.part_names import normal
from plcourse.data.protocols import Labeled
from plcourse.errors import UserError, nearest

_SHOWN = 10  # names listed in a message


class _Masked(Protocol):
    name: str
    mask_names: list[str]

    def renumber_masks(self, lookup: np.ndarray, names: Sequence[str]) -> None: ...


def restore_first(data: pl.LightningDataModule) -> None:
    """Restores the state of a data module from the checkpoint; must be called first in ``setup``.

    Lightning restores a data module after its ``setup``, but the model's columns and classes must be known before a
    table is read and split. Without a `plcourse.Trainer` or a checkpoint this does nothing, and Lightning restores the
    state later.
    """
    restore = getattr(data.trainer, "restore_data_first", None)
    if restore is not None:
        restore(data)


def adopt_classes(source: Labeled, names: Sequence[str]) -> None:
    """Numbers the classes of a source as a model was trained on them, in place.

    Args:
        source: its classes may be some of `names`, in any order.
        names: the model's classes.

    Raises:
        UserError: a sample has a class that the model does not know.
    """
    if source.label_names == list(names):
        return
    labeled = source.labels >= 0
    used = [source.label_names[number] for number in np.unique(source.labels[labeled]).tolist()]
    numbers = _numbers(source.name, "class", used, source.label_names, names)
    source.labels = np.where(labeled, numbers[source.labels], -1)
    source.label_names = list(names)


def adopt_mask_names(source: _Masked, names: Sequence[str]) -> None:
    """Numbers the classes of pixels as a model was trained on them, in place; see `adopt_classes`.

    Raises:
        UserError: the masks have a class that the model does not know.
    """
    if source.mask_names == list(names):
        return
    numbers = _numbers(source.name, "class of pixels", source.mask_names, source.mask_names, names)
    lookup = np.arange(
        256, dtype=np.uint8
    )  # a value without a name, such as that of pixels without a class, keeps its number
    lookup[: len(numbers)] = numbers
    source.renumber_masks(lookup, names)


def _numbers(source: str, what: str, used: Sequence[str], own: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """The model's number of each of a source's own names, int64; -1 for a name that is not used."""
    number_of = {normal(name): number for number, name in enumerate(known)}
    if unknown := next((name for name in used if normal(name) not in number_of), None):
        raise UserError(
            f"{source} has the {what} '{unknown}', which the checkpoint was not trained on; it was trained on "
            f"{listed(known)}{nearest(unknown, known)}"
        )
    return np.array([number_of.get(normal(name), -1) for name in own], np.int64)


def listed(names: Sequence[str]) -> str:
    """The first names for a message, and the number of the others."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(str, names[:_SHOWN])) + more
