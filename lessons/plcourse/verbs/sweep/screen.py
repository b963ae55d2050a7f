"""Shows the progress of a sweep: a line per finished cell, and on a terminal a live table. No torch."""

import os
import re
import sys
import time
from pathlib import Path
from statistics import fmean
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from plcourse.console.layout import aligned, flowed, width
from plcourse.errors import nearest, printable
from plcourse.verbs.sweep.plan import SweepCell, grid_label
from plcourse.verbs.sweep.sweep import LOG, Sweep

_REDRAW_SECONDS = 0.25
_TAIL = 4096  # bytes of a log that are searched for its last line


class Screen:
    """Prints lines to a stream and, on a terminal, a table of the running cells and all scores below them."""

    def __init__(self, sweep: Sweep, stream: TextIO | None = None) -> None:
        self._sweep = sweep
        output: TextIO = stream or sys.stdout
        self._console = Console(file=output, force_terminal=output.isatty(), force_jupyter=False)
        self._next = 0.0
        self._since: dict[str, float] = {}
        self._complained = False
        self._is_live = output.isatty() and not self._console.is_dumb_terminal
        self._live = Live(
            get_renderable=self._table,
            console=self._console,
            auto_refresh=False,  # no thread: workers are forked from this process
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def started(self, cell: SweepCell) -> None:
        """Notes when a cell began."""
        self._since[cell.run] = time.monotonic()

    def ended(self, cell: SweepCell) -> None:
        """Prints how a cell ended."""
        done = sum(known.status in ("finished", "failed") for known in self._sweep.cells)
        self.say(f"{done}/{len(self._sweep.cells)} {cell_line(self._sweep, cell)}")
        metric = self._sweep.record["metric"]
        if cell.status == "finished" and metric and not self._sweep.score(cell) and not self._complained:
            self._complained = True
            known = self._sweep.score_names(cell)
            hint = nearest(metric["name"], known) or f"; it has {', '.join(known)}"
            self.say(f"this run has no {metric['name']}{hint}")

    def say(self, line: str) -> None:
        """Prints a line above the table."""
        self._console.print(Text(printable(line)), soft_wrap=True)

    def redraw(self) -> None:
        """Redraws the table on a terminal, a few times a second at most."""
        if not self._is_live or (now := time.monotonic()) < self._next:
            return
        self._next = now + _REDRAW_SECONDS
        if not self._live.is_started:
            self._live.start()
            self._console.show_cursor()  # a killed process could not bring it back
        self._live.refresh()

    def close(self) -> None:
        """Removes the table."""
        self._is_live = False
        if self._live.is_started:
            self._live.stop()

    def _table(self) -> Text:
        columns = self._console.width - 1
        lines = [*self._running(columns), "", *summary(self._sweep, columns)] if self._is_live else []
        return Text(printable("\n".join(lines)))

    def _running(self, columns: int) -> list[str]:
        lines, now = [], time.monotonic()
        for cell in [cell for cell in self._sweep.cells if cell.status == "running"]:
            seconds = now - self._since.get(cell.run, now)
            progress = re.split(r"\s{2,}", _last_line(self._sweep.path / cell.run / LOG))
            lines += flowed(["running", cell.label, f"{seconds:.0f} s", *progress], columns)
        return lines


def cell_line(sweep: Sweep, cell: SweepCell) -> str:
    """One cell in one line: its name, its score or its error, its time."""
    if cell.status == "failed":
        what = f"failed: {cell.error}"
    elif score := sweep.score(cell):
        what = f"{score[0]} {score[1]:.4g}"
    else:
        what = cell.status
    return f"{cell.label}  {what}" + ("" if cell.seconds is None else f"  {cell.seconds:.1f} s")


def summary(sweep: Sweep, columns: int | None = None) -> list[str]:
    """A table of the finished cells of every arm at every point of the grid, and of their mean score."""
    limit = columns or width()
    groups: dict[str, list[SweepCell]] = {}
    for cell in sweep.cells:
        groups.setdefault(f"{cell.arm}  {grid_label(cell.grid)}".rstrip(), []).append(cell)
    rows = []
    for name, cells in groups.items():
        count = {status: sum(cell.status == status for cell in cells) for status in ("finished", "running", "failed")}
        done = f"{count.pop('finished')}/{len(cells)} finished"
        done += "".join(f", {number} {status}" for status, number in count.items() if number)
        scores = [score for cell in cells if (score := sweep.score(cell))]
        values, spread = [value for _, value in scores], ""
        if values:
            spread = f"{scores[0][0]}  mean {fmean(values):.4g}"
        if len(values) > 1:
            spread += f"  ({min(values):.4g} to {max(values):.4g})"
        rows.append((name, done, spread))
    lines = aligned(rows)
    if limit is None or max(map(len, lines)) <= limit:
        return lines
    return [line for row in rows for line in flowed([part for part in row if part], limit)]


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
