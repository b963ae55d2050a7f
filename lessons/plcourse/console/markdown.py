"""Renders Markdown on a terminal with `rich`, without cutting off tables on a narrow screen."""

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, TableElement
from rich.table import Table


class _WholeTable(TableElement):
    """A table that wraps long words, such as names of configs, which rich would cut off."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in super().__rich_console__(console, options):
            if isinstance(part, Table):
                for column in part.columns:
                    column.overflow = "fold"
            yield part


class Guide(Markdown):
    """A text in Markdown, for the `print` of a console of rich."""

    elements = {**Markdown.elements, "table_open": _WholeTable}
