"""The parts of a page: everything that comes from outside passes through `text`, so no name of a class, a file or a
config key can become markup. There is no script in the page, and its content policy allows none.
"""

import base64
import hashlib
import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STYLE = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; img-src data:; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'"
_WIDE = 2  # a picture wider than so many times its height has a row of its own


def text(value: Any) -> str:
    """A value as text of the page: markup in it is shown, not obeyed; control characters are left out."""
    plain = "".join(each for each in str(value) if each.isprintable() or each in "\n\t")
    return html.escape(plain, quote=True)


def number(value: Any) -> str:
    """A number with the digits that a reader can use, a dash for what is missing."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else text(value)  # noqa: RUF001  (a dash on purpose)
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], caption: str) -> str:
    """A table that scrolls by itself where the screen is too narrow.

    Args:
        head: names of the columns; the first one names the rows.
        rows: cells, the first of each a name; strings are text, numbers stand to the right.
        caption: what the table shows.
    """
    lines = [f"<caption><span>{text(caption)}</span></caption>", "<thead><tr>"]
    numeric = [all(not isinstance(row[at], str) for row in rows) for at in range(len(head))]
    for name, right in zip(head, numeric, strict=True):
        lines.append(f'<th scope="col"{_right(right)}>{text(name)}</th>')
    lines.append("</tr></thead><tbody>")
    for row in rows:
        cells = [f'<th scope="row">{number(row[0])}</th>']
        cells += [f"<td{_right(right)}>{number(cell)}</td>" for cell, right in zip(row[1:], numeric[1:], strict=True)]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    body = "\n".join([*lines, "</tbody>"])
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table>{body}</table></div>'


def _right(right: bool) -> str:
    return ' class="num"' if right else ""


def facts(pairs: Sequence[tuple[str, Any]]) -> str:
    """Names and values, one below the other."""
    rows = (f"<div><dt>{text(name)}</dt><dd>{number(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="facts">{"".join(rows)}</dl>'


def tile(name: str, value: str, note: str = "") -> str:
    """A number to be seen first."""
    below = f'<span class="note">{text(note)}</span>' if note else ""
    return f'<li><span class="name">{text(name)}</span><strong>{text(value)}</strong>{below}</li>'


def code(source: str) -> str:
    """Text as it was typed or written; it scrolls by itself."""
    return f'<pre tabindex="0"><code>{text(source)}</code></pre>'


def folded(summary: str, content: str) -> str:
    """What is opened by those who want it; open in print."""
    return f"<details><summary>{text(summary)}</summary>{content}</details>"


def picture(path: Path, words: str) -> str:
    """A PNG inside the page.

    Args:
        path: the file.
        words: what it shows, for those who see it and those who do not.
    """
    content = path.read_bytes()
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    data = base64.b64encode(content).decode()
    image = f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{text(words)}">'
    if width > _WIDE * height:  # as wide as the page, and on a phone no smaller than it can be read
        image = f'<div class="scroll" tabindex="0" role="region" aria-label="{text(words)}">{image}</div>'
        return f'<figure class="wide">{image}<figcaption>{text(words)}</figcaption></figure>'
    return f"<figure>{image}<figcaption>{text(words)}</figcaption></figure>"


def is_png(path: Path) -> bool:
    """Whether a file begins as a PNG does."""
    with path.open("rb") as file:
        return file.read(8) == b"\x89PNG\r\n\x1a\n"


def section(key: str, title: str, content: str) -> tuple[str, str, str]:
    """A part of the page with its anchor; an empty one is left out by `document`."""
    return key, title, content


def document(title: str, header: str, sections: Sequence[tuple[str, str, str]], footer: str) -> str:
    """The whole page.

    Args:
        title: of the window; text.
        header: markup of what is seen first.
        sections: anchors, titles and markup; those without content are left out.
        footer: markup of the last lines.
    """
    filled = [each for each in sections if each[2]]
    links = "".join(f'<li><a href="#{key}">{text(name)}</a></li>' for key, name, _ in filled)
    body = "".join(
        f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{text(name)}</h2>{content}</section>\n'
        for key, name, content in filled
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{text(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header>{header}</header>
<nav aria-label="Sections"><ul>{links}</ul></nav>
<main id="main" tabindex="-1">
{body}</main>
<footer>{footer}</footer>
</body>
</html>
"""
