"""Evaluates many cells, each in its own process and on a view of a run, for the two batch scripts.

A finished cell has a ``done.json`` with the key of its work. A second call therefore continues where the first stopped.
"""

import hashlib
import json
import multiprocessing
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plcourse.cli.api import Run
from plcourse.console import say
from plcourse.errors import UserError, first_line
from plcourse.files import write_json
from plcourse.runs.references import digest

Work = Callable[[Run, dict[str, Any]], dict[str, Any]]


@dataclass
class Cell:
    """One evaluation of a batch."""

    folder: Path  # receives its results
    run: str  # the folder or name of a run
    labels: dict[str, Any]  # what distinguishes it from the others, such as {"run": ..., "data": ...}
    overrides: dict[str, Any] = field(default_factory=dict)  # dotted keys and their values
    result: dict[str, Any] = field(default_factory=dict)

    def key(self) -> str:
        """Returns a hash of what its result depends on: the content of the checkpoint and the overrides."""
        weights = digest(Run.load(self.run).checkpoint())
        return hashlib.sha256(json.dumps([weights, self.overrides], sort_keys=True).encode()).hexdigest()

    def found(self) -> dict[str, Any] | None:
        """Returns the result of an earlier call; None if that call failed or had another key."""
        try:
            done = json.loads((self.folder / "done.json").read_bytes())
            return done["result"] if done["key"] == self.key() else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError, UserError):
            return None


def carry_out(cells: Sequence[Cell], work: Work, jobs: int) -> bool:
    """Works on the unfinished cells, ``jobs`` at a time, and prints how each ended; returns whether all have a result.

    A failure does not stop the others.
    """
    waiting = []
    for cell in cells:
        if (found := cell.found()) is not None:
            cell.result = {"status": "finished", **found}
        else:
            waiting.append(cell)
    if len(waiting) < len(cells):
        say(f"{len(cells) - len(waiting)} of {len(cells)} were done before")
    pool = ThreadPoolExecutor(jobs)
    try:
        for number, cell in enumerate(pool.map(lambda cell: _in_own_process(cell, work), waiting), 1):
            label = ", ".join(map(str, cell.labels.values()))
            outcome = cell.result["status"] if cell.result["status"] == "finished" else cell.result["error"]
            say(f"[{number}/{len(waiting)}] {label}: {outcome}")
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C no further cell begins
    return all(cell.result["status"] == "finished" for cell in cells)


def _in_own_process(cell: Cell, work: Work) -> Cell:
    shutil.rmtree(cell.folder, ignore_errors=True)
    cell.folder.parent.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("spawn").Process(target=_work_on, args=(cell, work))
    process.start()
    process.join()
    if (found := cell.found()) is not None and process.exitcode == 0:
        cell.result = {"status": "finished", **found}
        return cell
    code = process.exitcode or 0
    ended = f"its process was ended by {signal.Signals(-code).name}" if code < 0 else f"its process exited with {code}"
    message = cell.folder.with_suffix(".error")
    cell.result = {"status": "failed", "error": message.read_text() if message.is_file() else ended}
    return cell


def _work_on(cell: Cell, work: Work) -> None:
    message = cell.folder.with_suffix(".error")
    message.unlink(missing_ok=True)
    try:
        key = cell.key()
        view = Run.load(cell.run).view(cell.folder)
        with (cell.folder / "log.txt").open("w") as log:
            sys.stdout = sys.stderr = log
            result = work(view, cell.overrides)
        write_json(cell.folder / "done.json", {"key": key, "result": result})
    except Exception as error:  # of any kind: the table shows one line
        message.write_text(first_line(error))
        raise SystemExit(1) from error
