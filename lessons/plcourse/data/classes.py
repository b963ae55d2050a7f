"""The names of the classes of a table, as its label column writes them."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from plcourse.console import say


def class_names(name: str, labels: Iterable[str]) -> list[str]:
    """The distinct labels: numbers in the order of their values, else in that of their characters.

    Labels that differ stay different classes. Those that differ only by blanks, by case, by the form of a character or
    by the way a number is written are reported, since they may be meant as one.

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
            say(f"{name}: the classes {written} differ only in how they are written, and are {len(group)} classes")
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
