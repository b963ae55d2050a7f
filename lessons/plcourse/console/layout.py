"""Text for the width that it finds: tables and lines that never cut a number. No torch.

``COLUMNS`` says how wide the output is, else the terminal does. Output that goes elsewhere has no width, and nothing in
it is wrapped.
"""

import os
import sys
import textwrap
from collections.abc import Container, Sequence
from typing import TextIO

_LEAST = 20  # narrower is not a width that a person works with
_INDENT = "  "


def width(stream: TextIO | None = None) -> int | None:
    """The columns of a stream, standard output when None; None where it is no terminal and ``COLUMNS`` is not set."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return max(_LEAST, int(given))
    try:
        columns = os.get_terminal_size((stream or sys.stdout).fileno()).columns
    except (OSError, ValueError, AttributeError):
        return None
    return max(_LEAST, columns) if columns else None


def aligned(rows: Sequence[Sequence[str]], right: Container[int] = ()) -> list[str]:
    """Rows as columns of text, those of the given numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if at in right else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def fitted(
    head: Sequence[str], rows: Sequence[Sequence[str]], right: Container[int] = (), limit: int | None = None
) -> list[str]:
    """A table with a head: as columns where they fit, else each row as a paragraph of names and values.

    Args:
        head: names of the columns.
        rows: the cells.
        right: columns that stand to the right.
        limit: the columns of the output, None for no limit.
    """
    lines = aligned([head, *rows], right)
    if limit is None or max(map(len, lines)) <= limit:
        return lines
    lines = []
    for first, *cells in rows:
        named = [f"{name} {cell}" for name, cell in zip(head[1:], cells, strict=True) if cell]
        lines += [*broken(first, limit), *flowed(named, limit, _INDENT, _INDENT)]
    return lines


def flowed(parts: Sequence[str], limit: int | None, first: str = "", indent: str = _INDENT) -> list[str]:
    """Parts two blanks apart, on as many lines as they take; a line ends between two parts where it can.

    Args:
        parts: such as ``val/loss 0.31``.
        limit: the columns of the output, None for no limit.
        first: what the first line begins with.
        indent: what every other line begins with.
    """
    lines, line = [], first
    for part in parts:
        begun = line.strip() != ""
        together = f"{line}  {part}" if begun else line + part
        if limit is None or len(together) <= limit:
            line = together
            continue
        if begun:
            lines.append(line)
        *whole, line = broken(indent + part, limit, indent * 2) if begun else broken(line + part, limit, indent * 2)
        lines += whole
    return [*lines, line]


def broken(text: str, limit: int | None, indent: str = _INDENT) -> list[str]:
    """One line as several where it is too long, broken at blanks only: a word that is too long stays whole."""
    if limit is None or len(text) <= limit:
        return [text]
    return textwrap.wrap(
        text, limit, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )
