"""Cells of a batch: each a view of a run, worked on by a process of its own, and not done twice.

What `scripts/batch_evaluate.py` and `scripts/batch_predict.py` share. A cell is done when its ``done.json`` says so for
the same work, so that a second call goes on where the first stopped.
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

Work = Callable[[Run, dict[str, Any]], dict[str, Any]]


@dataclass
class Cell:
    """One piece of work.

    Args:
        folder: where it is done.
        run: a run's folder or name.
        labels: what tells it from the others, such as ``{"run": ..., "data": ...}``.
        overrides: dotted keys and their values.
    """

    folder: Path
    run: str
    labels: dict[str, Any]
    overrides: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)

    def key(self) -> str:
        """What its result depends on: the checkpoint's content and the overrides."""
        with Run.load(self.run).checkpoint().open("rb") as file:
            weights = hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.sha256(json.dumps([weights, self.overrides], sort_keys=True).encode()).hexdigest()

    def found(self) -> dict[str, Any] | None:
        """Its result from an earlier call, None where that was another or failed."""
        try:
            done = json.loads((self.folder / "done.json").read_bytes())
            return done["result"] if done["key"] == self.key() else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError, UserError):
            return None


def carry_out(cells: Sequence[Cell], work: Work, jobs: int) -> bool:
    """Does what is left, ``jobs`` cells at a time, and says how each went; a failure stops no other.

    Returns:
        Whether all cells have a result.
    """
    waiting = []
    for cell in cells:
        found = cell.found()
        cell.result = {"status": "finished", **found} if found is not None else {}
        if found is None:
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
        pool.shutdown(cancel_futures=True)  # after Ctrl-C no other cell begins
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
    told = cell.folder.with_suffix(".error")
    cell.result = {"status": "failed", "error": told.read_text() if told.is_file() else ended}
    return cell


def _work_on(cell: Cell, work: Work) -> None:
    told = cell.folder.with_suffix(".error")
    told.unlink(missing_ok=True)
    try:
        key = cell.key()
        view = Run.load(cell.run).view(cell.folder)
        with (cell.folder / "log.txt").open("w") as log:
            sys.stdout = sys.stderr = log
            result = work(view, cell.overrides)
        write_json(cell.folder / "done.json", {"key": key, "result": result})
    except Exception as error:  # one line for the table, whatever it was
        told.write_text(first_line(error))
        raise SystemExit(1) from error
