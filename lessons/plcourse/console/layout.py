"""Fits tables and lines to the width of the terminal, without cutting a number in two. No torch.

``COLUMNS`` sets the width; otherwise the terminal does. Output to a file or a pipe has no width and is not wrapped.
"""

import os
import sys
import textwrap
from collections.abc import Container, Sequence
from typing import TextIO

_LEAST = 20  # columns; nobody works with fewer
_INDENT = "  "


def width(stream: TextIO | None = None) -> int | None:
    """Returns the columns of a stream, by default standard output; None for no terminal and no ``COLUMNS``."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return max(_LEAST, int(given))
    try:
        columns = os.get_terminal_size((stream or sys.stdout).fileno()).columns
    except (OSError, ValueError, AttributeError):
        return None
    return max(_LEAST, columns) if columns else None


def aligned(rows: Sequence[Sequence[str]], right: Container[int] = ()) -> list[str]:
    """Returns the rows of a table as lines, with the given columns aligned to the right."""
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
    """Returns the lines of a table with a head; if it is too wide, each row as a paragraph of names and values.

    Args:
        head: names of the columns.
        rows: the cells.
        right: columns to align to the right.
        limit: width of the output; None for no limit.
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
    """Returns lines of parts that are two blanks apart, broken between parts if possible.

    Args:
        parts: such as ``val/loss 0.31``.
        limit: width of the output; None for no limit.
        first: indent of the first line.
        indent: indent of all other lines.
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
            line = indent
        *whole, line = broken(line + part, limit, indent * 2)
        lines += whole
    return [*lines, line]


def broken(text: str, limit: int | None, indent: str = _INDENT) -> list[str]:
    """Breaks a line that is too long at blanks; a word that is too long stays whole."""
    if limit is None or len(text) <= limit:
        return [text]
    return textwrap.wrap(text, limit, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
