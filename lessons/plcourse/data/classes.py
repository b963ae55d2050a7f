"""The names of the classes of a table, as its label column writes them."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from plcourse.console import say


def class_names(name: str, labels: Iterable[str]) -> list[str]:
    """The distinct labels, sorted by value if all are numbers and otherwise alphabetically.

    Labels that only differ in blanks, case, the form of a character or the notation of a number stay different classes,
    but are reported, because they may be meant as one.

    Args:
        name: what the report calls the table.
        labels: the label of each row.
    """
    names = sorted(set(labels))
    alike: dict[str | float, list[str]] = defaultdict(list)
    for each in names:
        number = _number(each)
        alike[_plain(each) if number is None else number].append(each)
    for group in alike.values():
        if len(group) > 1:
            written = ", ".join(map(repr, group))
            say(f"{name}: the classes {written} differ only in notation, and are treated as {len(group)} classes")
    values = {each: _number(each) for each in names}
    if all(value is not None for value in values.values()):
        names.sort(key=lambda each: values[each] or 0.0)
    return names


def _plain(label: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", label).casefold().split())


def _number(label: str) -> float | None:
    try:
        value = None if "_" in label else float(label)
    except ValueError:
        return None
    return value if value == value else None  # not a number: "nan" is a name
