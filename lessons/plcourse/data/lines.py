"""Reads text files as lines and as tables of text (CSV, TSV), with line numbers in errors.

Cells of a CSV file may be quoted (RFC 4180); those of a TSV file are read as they are. The first line names the columns
and shows the separator. pandas could not replace this reader: it accepts text after a closing quote and rows that a
stray quote has merged, and it reports no line numbers.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa

from plcourse.console import say
from plcourse.errors import UserError

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
_SAMPLE = 50  # rows that are examined if the first line leaves the separator open
_CHUNK = 1_000  # rows that are held as Python strings at a time
_LONGEST = 2**31 - 1  # characters of a cell; the csv module would stop at 131,072
# UTF-32 comes first: its little-endian mark begins with that of UTF-16
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decoded(path: str | Path, what: str = "text") -> str:
    """Decodes a file (`what` in errors) in UTF-8, or in UTF-16 or UTF-32 with a byte order mark; line ends are kept.

    A missing file, another encoding (with the place of the first wrong byte) and NUL characters are UserErrors.
    """
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the {what} '{path}': {error.strerror}") from error
    encoding = next((name for mark, name in _MARKS if raw.startswith(mark)), "utf-8-sig")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"'{path}' is not {encoding.removesuffix('-sig').upper()}: byte {error.start:,} is "
            f"0x{raw[error.start]:02x} (line {line}); if it is Latin-1 or Windows-1252, convert it with "
            "iconv -f WINDOWS-1252 -t UTF-8"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(
            f"'{path}' is not text: it contains NUL characters, the first in line {line}; if it is UTF-16 without a "
            "byte order mark, convert it with iconv -f UTF-16LE -t UTF-8"
        )
    return text


def read_text(path: str | Path) -> str:
    """A text file with its line ends, see `decoded`; an empty file is a UserError."""
    text = decoded(path)
    if not text.strip():
        raise UserError(f"the text '{path}' is empty")
    return text


def read_lines(path: str | Path) -> list[tuple[int, str]]:
    """The lines of a text file that are not blank, each with its number in the file, from 1.

    A line ends at a line feed with or without a carriage return before it; in a file without line feeds, at a carriage
    return. Other line ends of Unicode, such as U+2028 or a form feed, belong to the line. A message gives the number of
    blank lines. A file that is empty or cannot be read is a UserError.
    """
    text = read_text(path)
    lines = [line.removesuffix("\r") for line in with_line_feeds(text).split("\n")]
    if not lines[-1]:
        lines.pop()
    kept = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if blank := len(lines) - len(kept):
        say(f"{path}: {len(kept)} of {len(lines)} lines contain text; {blank} are blank and left out")
    return kept


def with_line_feeds(text: str) -> str:
    """The text with line feeds in place of carriage returns, if it has no line feeds."""
    return text if "\n" in text else text.replace("\r", "\n")


class _Row(NamedTuple):
    start: int  # first line
    end: int  # last line
    cells: list[str]


def read_delimited(file: Path, quoted: bool) -> pd.DataFrame:
    """A CSV or TSV file as columns of text; an empty cell is a missing value.

    A column without a name is called ``Unnamed: <its number from 0>``, as in pandas; it is left out if it has no values
    either, as if each line ends with a separator. Cells may be quoted if `quoted` says so or all names in the first
    line are. An unknown encoding, an ambiguous separator, two columns of the same name, a row with too many cells and a
    misplaced quote are UserErrors.
    """
    return _open(file, quoted).frame()


def line_of(file: Path, row: int, quoted: bool = True) -> int:
    """The number, from 1, of the line in which a row begins; rows count from 0 after the first line."""
    table = _open(file, quoted)
    return next(islice(table.rows(), row + 1, None)).start + table.skip


def _open(file: Path, quoted: bool) -> "_Table":
    text = with_line_feeds(decoded(file, "table"))
    skip, separator = 0, None
    if found := re.match(r"sep=([,;|\t])\r?\n", text):  # Excel's note on the separator
        separator, skip, text = found[1], 1, text[found.end() :]
    if not text.strip():
        raise UserError(f"cannot read the table '{file}': it is empty")
    first = _first_line(text)
    quoted = quoted or re.fullmatch(r'"[^"\t]*"(\t"[^"\t]*")*', first) is not None
    return _Table(file, text, separator or _separator(file, text, first, quoted), quoted, skip)


@dataclass
class _Table:
    """The text of a file that is not blank; `skip` lines of the file come before it."""

    file: Path
    text: str
    separator: str
    quoted: bool
    skip: int = 0

    def frame(self) -> pd.DataFrame:
        """All rows."""
        rows = self.rows()
        header = next(rows, _Row(1, 1, [])).cells
        names = self._names(header)
        chunks, broken, n = [_columns([], names)], {}, 0
        while chunk := [self._fitted(row, len(names)) for row in islice(rows, _CHUNK)]:
            broken |= {n + i: row for i, row in enumerate(chunk) if row.end > row.start}
            chunks.append(_columns(chunk, names))
            n += len(chunk)
        frame = pa.concat_tables(chunks).to_pandas()
        if broken:
            self._check_broken(frame, broken)
        unnamed = [name for name, cell in zip(names, header, strict=True) if not cell.strip()]
        return frame.drop(columns=[name for name in unnamed if frame[name].isna().all()])

    def rows(self) -> Iterator[_Row]:
        """The rows that are not blank; a misplaced quote or carriage return is a UserError."""
        csv.field_size_limit(_LONGEST)
        quoting = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        lines = io.StringIO(self.text, newline="\n")
        first = _first_line(self.text)
        # in a first line such as "a, b" the blank belongs to the separator
        spaced = 0 < first.count(self.separator) == first.count(f"{self.separator} ")
        reader = csv.reader(lines, delimiter=self.separator, quoting=quoting, strict=True, skipinitialspace=spaced)
        start = 1
        try:
            for cells in reader:
                if len(cells) > 1 or (cells and cells[0].strip()):
                    yield _Row(start, reader.line_num, cells)
                start = reader.line_num + 1
        except csv.Error as error:
            raise UserError(f"{self._at(start)}: {self._why(str(error), start, reader.line_num)}") from error

    def _fitted(self, row: _Row, width: int) -> _Row:
        """The row with as many cells as there are columns; only empty cells may be too many."""
        if any(row.cells[width:]):
            hint = "" if self.quoted else ", and cells of a .tsv file are not quoted: name a file of quoted cells .csv"
            raise UserError(
                f"{self._at(row.start)}: it has {len(row.cells)} cells, but the first line has {width} names; the "
                f"separator is a {SEPARATORS[self.separator]}{hint}"
            )
        return row._replace(cells=row.cells[:width] + [""] * (width - len(row.cells)))

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

    def _check_broken(self, frame: pd.DataFrame, broken: dict[int, _Row]) -> None:
        """Refuses a row that has swallowed other rows, and says how many rows extend over several lines.

        A stray quote extends a cell to the next quote, across rows of the table. Such rows are recognized: a line
        within the cell has as many cells as the table has columns, and one of them is a value that occurs elsewhere in
        its column.
        """
        seen = [set(frame[name].drop(index=list(broken)).dropna()) for name in frame]
        lines = self.text.split("\n")
        for start, end, cells in broken.values():
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
        first = next(iter(broken.values())).start + self.skip
        say(
            f"{self.file}: {len(frame):,} rows; {len(broken):,} of them contain line breaks within quotes, the first "
            f"in line {first}"
        )


def _first_line(text: str) -> str:
    return text.lstrip("\r\n").partition("\n")[0].rstrip("\r")


def _columns(rows: Sequence[_Row], names: Sequence[str]) -> pa.Table:
    columns = zip(*(row.cells for row in rows), strict=True) if rows else [()] * len(names)
    return pa.table([pa.array([cell or None for cell in column], pa.large_string()) for column in columns], names)


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
    alike = [separator for separator in shown if _cuts_alike(_Table(file, text, separator, quoted))]
    if len(alike) == 1:
        return alike[0]
    named = " and a ".join(SEPARATORS[separator] for separator in shown)
    raise UserError(
        f"cannot read the table '{file}': its first line contains a {named}, and either may separate the columns; "
        "put names that contain one into double quotes"
    )


def _cuts_alike(table: _Table) -> bool:
    try:
        return len({len(row.cells) for row in islice(table.rows(), _SAMPLE)}) == 1
    except UserError:  # quotes are misplaced for this separator
        return False
