"""Names that mean the same: of the parts of a data set, and of files in different Unicode forms."""

import unicodedata
from collections.abc import Iterable
from pathlib import PurePath
from typing import TypeVar

from plcourse.errors import UserError

_PART_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "eval"), "test"),
}

Located = TypeVar("Located", bound=PurePath)


def part_of(name: str) -> str | None:
    """The part that a folder or a file (without its ending) is named after: ``train``, ``val``, ``test`` or None."""
    return _PART_OF.get(name.casefold())


def by_part(paths: Iterable[Located], what: str) -> dict[str, Located]:
    """Folders or files by the part that their name means, in the order train, val, test; others are left out.

    Args:
        paths: the folders or files.
        what: the source's name, for the error.

    Raises:
        UserError: two of them mean one part.
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


def normal(name: str) -> str:
    """A name in Unicode's composed form (NFC): macOS writes ``é`` as two characters, most keyboards as one."""
    return unicodedata.normalize("NFC", name)
