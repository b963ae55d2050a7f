"""A reader who types the changes that a guide proposes, and what comes out."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import guides
from forking import Shell
from plcourse import Run


class Reader:
    """Types the changes of one guide in one folder."""

    def __init__(self, lesson: str, shell: Shell, folder: Path) -> None:
        self.changes, self.shell, self.folder = guides.changes(lesson), shell, folder

    def change(self, number: int, status: int = 0, block: int | None = None, **shorter: Any) -> tuple[Any, str]:
        """Types one change, or one of its blocks; returns the change and what was printed."""
        change = self.changes[number - 1]
        for name, text in change.files.items():
            (self.folder / name).write_text(text)
        blocks = change.blocks if block is None else [change.blocks[block]]
        return change, self.type("".join(blocks), status, **shorter)

    def type(self, commands: str, status: int = 0, **shorter: Any) -> str:
        return self.shell.run(self.folder, commands, status, **shorter)

    def runs(self, config: str, root: str = "runs") -> list[Run]:
        """The runs of a config, the oldest first."""
        return [Run(path.parent) for path in sorted((self.folder / root / config).glob("2*/run.json"))]

    def run(self, config: str, root: str = "runs") -> Run:
        return self.runs(config, root)[-1]


def series(run: Run, metric: str) -> list[float]:
    return [float(row["value"]) for row in run.metrics if row["metric"] == metric]


def scores(run: Run, metric: str) -> list[float]:
    """What each evaluation of a run scored, the oldest first."""
    files = sorted(run.path.glob("eval/*.json"), key=lambda file: file.stat().st_mtime_ns)
    return [json.loads(file.read_text())["metrics"][metric] for file in files]


def summary(run: Run, metric: str) -> dict[str, float]:
    return json.loads((run.path / "summary.json").read_text())["metrics"][metric]


def columns(output: str) -> list[tuple[float, float]]:
    """The values of two tables that `paste` has put side by side."""
    rows = [line.split("\t") for line in output.splitlines() if re.match(r"\d+,\d+,train/\S+\t\d", line)]
    return [(float(a.split(",")[3]), float(b.split(",")[3])) for a, b in rows]


def agree(output: str, digits: int) -> None:
    pairs = columns(output)
    assert len(pairs) >= 5
    assert all(a == pytest.approx(b, rel=10.0**-digits) for a, b in pairs)
