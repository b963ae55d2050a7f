"""Formats values, lists and counts for messages and tables."""

import json
from collections.abc import Mapping, Sequence


def one_line(value: object) -> str:
    """A value on one line; a missing one is a dash."""
    return "-" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)


def first_names(names: Sequence[str], most: int = 3) -> str:
    """The first names, and the number of the others."""
    first = ", ".join(names[:most])
    return first if len(names) <= most else f"{first} and {len(names) - most} more"


def plural(n: int, unit: str) -> str:
    """A count: `1 seed`, `5 seeds`, `5 folds of a split`."""
    head, _, rest = unit.partition(" ")
    return f"{n} {head}{'' if n == 1 else 's'}{f' {rest}' if rest else ''}"


def grid_line(grid: Mapping[str, object]) -> str:
    """A point of a grid in full: `model.init_args.lr = 0.1`."""
    return ", ".join(f"{key} = {one_line(value)}" for key, value in grid.items())


def differing_entries(base: Mapping[str, object], other: Mapping[str, object]) -> str:
    """The entries in which two mappings differ: `split_seed is 0 and 1`."""
    keys = [key for key in dict.fromkeys([*base, *other]) if base.get(key) != other.get(key)]
    return ", ".join(f"{key} is {one_line(base.get(key))} and {one_line(other.get(key))}" for key in keys) or "fold"


def p_value_text(p: float) -> str:
    """A p-value in a sentence: `p = 0.0123`."""
    return "p < 0.0001" if p < 1e-4 else f"p = {p:.4f}"


def interval_name(confidence: float) -> str:
    """`95 % interval`."""
    return f"{100 * confidence:g} % interval"
