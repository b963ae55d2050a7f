"""Builds the parts of a page. The page has no script, and its content policy allows none.

Everything from outside is escaped by `text`, so no name of a class, a file or a config key can become markup.
"""

import base64
import hashlib
import html
import math
from collections.abc import Sequence
from pathlib import Path
from string import Template

STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
_PAGE = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; img-src data:; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'"
_WIDE = 2  # a picture wider than this many times its height gets the full width of the page


def text(value: object) -> str:
    """Escapes a value for the page: markup in it is shown, not interpreted; control characters are dropped."""
    plain = "".join(each for each in str(value) if each.isprintable() or each in "\n\t")
    return html.escape(plain, quote=True)


def number(value: object) -> str:
    """Formats a number with the digits that a reader can use; a missing value is a dash."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else text(value)  # noqa: RUF001  (an en dash on purpose)
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]], caption: str) -> str:
    """A table that scrolls sideways on a narrow screen; '' without rows. The first column names the rows."""
    if not rows:
        return ""
    lines = [f"<caption><span>{text(caption)}</span></caption>", "<thead><tr>"]
    kinds = ["" if any(isinstance(row[at], str) for row in rows) else ' class="num"' for at in range(len(head))]
    lines += [f'<th scope="col"{kind}>{text(name)}</th>' for name, kind in zip(head, kinds, strict=True)]
    lines.append("</tr></thead><tbody>")
    for name, *row in rows:
        cells = "".join(f"<td{kind}>{number(cell)}</td>" for cell, kind in zip(row, kinds[1:], strict=True))
        lines.append(f'<tr><th scope="row">{number(name)}</th>{cells}</tr>')
    body = "\n".join([*lines, "</tbody>"])
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}"><table>{body}</table></div>'


def facts(pairs: Sequence[tuple[str, object]]) -> str:
    """Names and values, one below the other."""
    rows = (f"<div><dt>{text(name)}</dt><dd>{number(value)}</dd></div>" for name, value in pairs)
    return f'<dl class="facts">{"".join(rows)}</dl>'


def tile(name: str, value: str, note: str = "") -> str:
    """A number at the top of the page."""
    below = f'<span class="note">{text(note)}</span>' if note else ""
    return f'<li><span class="name">{text(name)}</span><strong>{text(value)}</strong>{below}</li>'


def code(source: str) -> str:
    """Verbatim text that scrolls sideways."""
    return f'<pre tabindex="0"><code>{text(source)}</code></pre>'


def details(summary: str, content: str) -> str:
    """Content that a reader can open, and that is open in print; '' without content."""
    return f"<details><summary>{text(summary)}</summary>{content}</details>" if content else ""


def picture(path: Path, words: str) -> str:
    """A PNG inside the page, with a text for the caption and for screen readers."""
    content = path.read_bytes()
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    data = base64.b64encode(content).decode()
    image = f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{text(words)}">'
    if width > _WIDE * height:  # scrolls on a phone, where it would become too small
        image = f'<div class="scroll" tabindex="0" role="region" aria-label="{text(words)}">{image}</div>'
        return f'<figure class="wide">{image}<figcaption>{text(words)}</figcaption></figure>'
    return f"<figure>{image}<figcaption>{text(words)}</figcaption></figure>"


def is_png(path: Path) -> bool:
    """Whether a file begins with the signature of PNG."""
    with path.open("rb") as file:
        return file.read(8) == b"\x89PNG\r\n\x1a\n"


def document(title: str, header: str, sections: Sequence[tuple[str, str, str]], version: str | None = None) -> str:
    """The whole page from markup; of each section anchor, title and markup, left out if the markup is empty."""
    footer = f"<p>Written by <code>plcourse report</code>{f', plcourse {text(version)}' if version else ''}.</p>"
    filled = [each for each in sections if each[2]]
    links = "".join(f'<li><a href="#{key}">{text(name)}</a></li>' for key, name, _ in filled)
    body = "".join(
        f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{text(name)}</h2>{content}</section>\n'
        for key, name, content in filled
    )
    parts = {"policy": _POLICY, "style": STYLE, "title": text(title), "links": links, "body": body}
    return _PAGE.substitute(parts, header=header, footer=footer)
