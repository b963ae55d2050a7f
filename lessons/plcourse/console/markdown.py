"""Markdown on a terminal, as `rich` renders it, with nothing of a table lost on a narrow screen."""

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, TableElement
from rich.table import Table


class _WholeTable(TableElement):
    """A table whose cells go on in the next line where rich cuts words off: half a config's name is no use."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in super().__rich_console__(console, options):
            if isinstance(part, Table):
                for column in part.columns:
                    column.overflow = "fold"
            yield part


class Guide(Markdown):
    """Text in Markdown, to be printed by a console of rich."""

    elements = {**Markdown.elements, "table_open": _WholeTable}
