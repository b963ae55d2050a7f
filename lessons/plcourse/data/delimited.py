"""Reads CSV and TSV files as text, with line numbers in its errors.

Cells of a CSV file may be quoted (RFC 4180); those of a TSV file are read as they are. The first line names the columns
and shows the separator.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pandas as pd
import pyarrow as pa

from plcourse.console import say
from plcourse.data.lines import decoded, with_line_feeds
from plcourse.errors import UserError

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
_SAMPLE = 50  # rows that are examined if the first line leaves the separator open
_CHUNK = 1_000  # rows that are held as Python strings at a time
_LONGEST = 2**31 - 1  # characters of a cell; the csv module would stop at 131,072


def read_delimited(file: Path, quoted: bool) -> pd.DataFrame:
    """A CSV or TSV file as columns of text; an empty cell is a missing value.

    A column without a name is called ``Unnamed: <its number from 0>``, as in pandas; it is left out if it has no values
    either, as if each line ends with a separator.

    Args:
        file: the file.
        quoted: whether cells may be quoted. They always may if all names in the first line are quoted.

    Raises:
        UserError: an unknown encoding, an ambiguous separator, two columns of the same name, a row with too many cells,
            or a misplaced quote.
    """
    with _long_cells():
        return _parser(file, quoted).frame()


def line_of(file: Path, row: int, quoted: bool = True) -> int:
    """The number, from 1, of the line in which a row begins; rows count from 0 after the first line."""
    with _long_cells():
        parser = _parser(file, quoted)
        start, _, _ = next(islice(parser.rows(), row + 1, None))
        return start + parser.skip


def _parser(file: Path, quoted: bool) -> "_Parser":
    text = with_line_feeds(decoded(file, "table"))
    skip, separator = 0, None
    if found := re.match(r"sep=([,;|\t])\r?\n", text):  # Excel's note on the separator
        separator, skip, text = found[1], 1, text[found.end() :]
    if not text.strip():
        raise UserError(f"cannot read the table '{file}': it is empty")
    first = _first_line(text)
    quoted = quoted or re.fullmatch(r'"[^"\t]*"(\t"[^"\t]*")*', first) is not None
    separator = separator or _separator(file, text, first, quoted)
    return _Parser(file, text, separator, quoted, skip)


@dataclass
class _Parser:
    """Reads one file.

    Args:
        file: its name, for errors.
        text: its lines.
        separator: the separator of two cells.
        quoted: whether cells may be quoted.
        skip: lines of the file before `text`.
    """

    file: Path
    text: str
    separator: str
    quoted: bool
    skip: int = 0
    _broken: list[tuple[int, int, int, list[str]]] = field(
        default_factory=list
    )  # rows on several lines: row, first and last line, cells

    def frame(self) -> pd.DataFrame:
        """All rows."""
        rows = self.rows()
        _, _, header = next(rows, (0, 0, []))
        names = self._names(header)
        chunks: list[pa.Table] = []
        held: list[list[str]] = []
        n = 0
        for start, end, cells in rows:
            if len(cells) > len(names) and any(cells[len(names) :]):
                raise UserError(
                    f"{self._at(start)}: it has {len(cells)} cells, but the first line has {len(names)} names; the "
                    f"separator is a {SEPARATORS.get(self.separator, self.separator)}{self._hint()}"
                )
            cells = cells[: len(names)] + [""] * (len(names) - len(cells))
            if end > start:
                self._broken.append((n, start, end, cells))
            held.append(cells)
            n += 1
            if len(held) == _CHUNK:
                chunks.append(_columns(held, names))
                held = []
        table = pa.concat_tables([*chunks, _columns(held, names)])
        frame = table.to_pandas()
        if self._broken:
            self._check_broken(frame, n)
        empty = [
            name for name, cell in zip(names, header, strict=True) if not cell.strip() and frame[name].isna().all()
        ]
        return frame.drop(columns=empty)

    def rows(self) -> Iterator[tuple[int, int, list[str]]]:
        """First line, last line and cells of each row that is not blank.

        Raises:
            UserError: a misplaced quote or carriage return.
        """
        quoting = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        lines = io.StringIO(self.text, newline="\n")
        first = _first_line(self.text)
        # in a first line such as "a, b" the blank belongs to the separator
        spaced = 0 < first.count(self.separator) == first.count(f"{self.separator} ")
        reader = csv.reader(lines, delimiter=self.separator, quoting=quoting, strict=True, skipinitialspace=spaced)
        start = 1
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise UserError(f"{self._at(start)}: {self._why(str(error), start, reader.line_num)}") from error
            if cells is None:
                return
            if len(cells) > 1 or (cells and cells[0].strip()):
                yield start, reader.line_num, cells
            start = reader.line_num + 1

    def _why(self, error: str, start: int, line: int) -> str:
        if "end of data" in error:
            return "a double quote opens a cell there and is never closed"
        if "expected after" in error:
            spans = f" and ends in line {line + self.skip}" if line > start else ""
            return (
                f"text follows a closing double quote in the row that begins there{spans}; write a quote within a cell "
                'twice ("")'
            )
        return "a cell contains a carriage return; put the cell into double quotes, or remove it"

    def _names(self, header: Sequence[str]) -> list[str]:
        if not header:
            raise UserError(f"cannot read the table '{self.file}': it is empty")
        names = [cell.strip() or f"Unnamed: {i}" for i, cell in enumerate(header)]
        if again := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"cannot read the table '{self.file}': it has two columns '{again}'; rename one of them")
        return names

    def _at(self, line: int) -> str:
        return f"cannot read the table '{self.file}', line {line + self.skip}"

    def _hint(self) -> str:
        return "" if self.quoted else ", and cells of a .tsv file are not quoted: name a file of quoted cells .csv"

    def _check_broken(self, frame: pd.DataFrame, n: int) -> None:
        """Refuses a row that has swallowed other rows, and says how many rows extend over several lines.

        A stray quote extends a cell to the next quote, across rows of the table. Such rows are recognized: a line
        within the cell has as many cells as the table has columns, and one of them is a value that occurs elsewhere in
        its column.
        """
        rows = {row for row, *_ in self._broken}
        seen = [set(frame[name].drop(index=list(rows)).dropna()) for name in frame]
        lines = self.text.split("\n")
        for _, start, end, cells in self._broken:
            columns = [i for i, cell in enumerate(cells) if "\n" in cell]
            for line in range(start, end + 1):
                inner = lines[line - 1].rstrip("\r").split(self.separator)
                low = columns[0] + 1 if line == start else 0
                high = columns[-1] if line == end else len(cells)
                if len(inner) == len(cells) and any(inner[i] in seen[i] for i in range(low, high)):
                    raise UserError(
                        f"{self._at(start)}: a double quote opens a cell there that extends to line "
                        f"{end + self.skip}, and line {line + self.skip} within it looks like a separate row; close "
                        'the quote, or write a quote within a cell twice ("")'
                    )
        say(
            f"{self.file}: {n:,} rows; {len(rows):,} of them contain line breaks within quotes, the first in line "
            f"{self._broken[0][1] + self.skip}"
        )


def _first_line(text: str) -> str:
    return text.lstrip("\r\n").partition("\n")[0].rstrip("\r")


def _columns(rows: list[list[str]], names: Sequence[str]) -> pa.Table:
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    return pa.table(
        {
            name: pa.array([cell or None for cell in column], pa.large_string())
            for name, column in zip(names, columns, strict=True)
        }
    )


def _separator(file: Path, text: str, first: str, quoted: bool) -> str:
    """The separator in the first line; if there are several, the one that gives all rows the same number of cells."""
    bare = re.sub(r'"[^"]*"', "", first) if quoted else first
    shown = [separator for separator in SEPARATORS if separator in bare]
    if file.suffix.lower() == ".tsv":
        if "\t" not in bare and shown:
            raise UserError(
                f"cannot read the table '{file}': it ends with .tsv, but its first line has a {SEPARATORS[shown[0]]} "
                "and no tab; name it .csv"
            )
        return "\t"
    if len(shown) < 2:
        return shown[0] if shown else ","
    alike = [separator for separator in shown if _cuts_alike(file, text, separator, quoted)]
    if len(alike) == 1:
        return alike[0]
    named = " and a ".join(SEPARATORS[separator] for separator in shown)
    raise UserError(
        f"cannot read the table '{file}': its first line contains a {named}, and either may separate the columns; "
        "put names that contain one into double quotes"
    )


def _cuts_alike(file: Path, text: str, separator: str, quoted: bool) -> bool:
    widths = set()
    try:
        with _long_cells():
            for _, (_, _, cells) in zip(range(_SAMPLE), _Parser(file, text, separator, quoted).rows(), strict=False):
                widths.add(len(cells))
    except UserError:  # quotes are misplaced for this separator
        return False
    return len(widths) == 1


@contextmanager
def _long_cells() -> Iterator[None]:
    before = csv.field_size_limit(_LONGEST)
    try:
        yield
    finally:
        csv.field_size_limit(before)
