"""Names with the same meaning: synonyms of the parts of a data set, and file names in different Unicode forms."""

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
    """The part that the name of a folder, or of a file without its ending, means; None for another name."""
    return _PART_OF.get(name.casefold())


def by_part(paths: Iterable[Located], what: str) -> dict[str, Located]:
    """Folders or files by the part that their name means, in the order train, val, test; others are left out.

    Raises:
        UserError: two of them mean the same part; the message begins with `what`.
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
    """A name in Unicode's composed form (NFC); macOS writes ``é`` as two characters, most keyboards as one."""
    return unicodedata.normalize("NFC", name)
