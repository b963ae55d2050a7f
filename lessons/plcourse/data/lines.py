"""Decodes a user's text files and splits them into lines."""

import codecs
from pathlib import Path

from plcourse.console import say
from plcourse.errors import UserError

# UTF-32 comes first: its little-endian mark begins with that of UTF-16
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decoded(path: str | Path, what: str = "text") -> str:
    """Decodes a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark; line ends are kept.

    Args:
        path: the file.
        what: what an error calls it.

    Raises:
        UserError: a missing file, another encoding (with the place of the first wrong byte), or NUL characters.
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
        raise UserError(
            f"'{path}' is not text: it contains NUL characters, the first in line "
            f"{text[: text.index(chr(0))].count(chr(10)) + 1}; if it is UTF-16 without a byte order mark, convert it "
            "with iconv -f UTF-16LE -t UTF-8"
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
    blank lines.

    Raises:
        UserError: the file cannot be read, or it is empty.
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
