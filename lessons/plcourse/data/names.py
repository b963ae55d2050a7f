"""Names that people write in several ways: parts of a data set, classes, and the classes that a checkpoint knows.

A model answers with numbers, whose meaning was decided by its training data. Other data may have the same classes in
another order, or only some of them.
"""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import PurePath
from typing import Protocol, TypeVar

import numpy as np
import pytorch_lightning as pl

from plcourse.console import say
from plcourse.data.protocols import Labeled
from plcourse.errors import UserError, nearest

_PART_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}
_SHOWN = 10  # names listed in a message

Located = TypeVar("Located", bound=PurePath)


class _Masked(Protocol):
    name: str
    mask_names: list[str]

    def renumber_masks(self, lookup: np.ndarray, names: Sequence[str]) -> None: ...


def normal(name: str) -> str:
    """A name in Unicode's composed form (NFC); macOS writes ``é`` as two characters, most keyboards as one."""
    return unicodedata.normalize("NFC", as_text(name))


def as_text(name: str) -> str:
    r"""The name of a file as text that can be written; bytes that are not UTF-8 become ``\xe9`` and the like."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def listed(names: Sequence[str]) -> str:
    """The first names for a message, and the number of the others."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(map(str, names[:_SHOWN])) + more


def part_of(name: str) -> str | None:
    """The part that the name of a folder, or of a file without its ending, means; None for another name."""
    return _PART_OF.get(name.casefold())


def by_part(paths: Iterable[Located], what: str) -> dict[str, Located]:
    """Folders or files by the part that their name means, in the order train, val, test; others are left out.

    Two of the same part are a UserError, whose message begins with `what`.
    """
    found: dict[str, Located] = {}
    for path in paths:
        part = part_of(path.stem)
        if part is None:
            continue
        if part in found:
            raise UserError(
                f"{what}: '{found[part]}' and '{path.name}' both mean the {part} part; keep one of them, or put all "
                "their samples into one"
            )
        found[part] = path
    return {part: found[part] for part in ("train", "val", "test") if part in found}


def class_names(name: str, labels: Iterable[str]) -> list[str]:
    """The distinct labels of a table, sorted by value if all are numbers and otherwise alphabetically.

    Labels that only differ in blanks, case, the form of a character or the notation of a number stay different classes.
    A message, in which the table is called `name`, reports them, because they may be meant as one class.
    """
    names = sorted(set(labels))
    values = {each: _number(each) for each in names}
    alike: dict[str | float, list[str]] = defaultdict(list)
    for each, value in values.items():
        plain = " ".join(unicodedata.normalize("NFKC", each).casefold().split())
        alike[plain if value is None else value].append(each)
    for group in alike.values():
        if len(group) > 1:
            written = ", ".join(map(repr, group))
            say(f"{name}: the classes {written} differ only in notation, and are treated as {len(group)} classes")
    if None not in values.values():
        names.sort(key=lambda each: values[each] or 0.0)
    return names


def _number(label: str) -> float | None:
    try:
        value = None if "_" in label else float(label)
    except ValueError:
        return None
    return value if value == value else None  # not a number: "nan" is a name


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
    """Renumbers the classes of a source in place, as a model with the classes `names` knows them.

    A sample of a class that the model does not know is a UserError.
    """
    if source.label_names == list(names):
        return
    labeled = source.labels >= 0
    used = [source.label_names[number] for number in np.unique(source.labels[labeled]).tolist()]
    numbers = _numbers(source.name, "class", used, source.label_names, names)
    source.labels = np.where(labeled, numbers[source.labels], -1)
    source.label_names = list(names)


def adopt_mask_names(source: _Masked, names: Sequence[str]) -> None:
    """Renumbers the classes of pixels in place; see `adopt_classes`."""
    if source.mask_names == list(names):
        return
    numbers = _numbers(source.name, "class of pixels", source.mask_names, source.mask_names, names)
    # a value without a name, such as that of pixels without a class, keeps its number
    source.renumber_masks(np.concatenate([numbers, np.arange(len(numbers), 256)]).astype(np.uint8), names)


def _numbers(source: str, what: str, used: Sequence[str], own: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """The model's number of each of a source's own names, int64; -1 for a name that is not used."""
    number_of = {normal(name): number for number, name in enumerate(known)}
    if unknown := next((name for name in used if normal(name) not in number_of), None):
        raise UserError(
            f"{source} has the {what} '{unknown}', which the checkpoint was not trained on; it was trained on "
            f"{listed(known)}{nearest(unknown, known)}"
        )
    return np.array([number_of.get(normal(name), -1) for name in own], np.int64)
