"""Which checkpoint a run started from, kept in its record until the run has written one of its own.

A run that is killed before its first checkpoint, and resumed, must start where its command said, not from fresh
weights, and not from a later state that the command had gone back from. No torch here.
"""

import hashlib
from pathlib import Path
from typing import Any

from plcourse.errors import UserError
from plcourse.runs.run import Run

_LAST = Path("checkpoints", "last.ckpt")


def start_record(checkpoint: Path | None, run: Run | None = None) -> dict[str, Any] | None:
    """What ``run.json`` says of the start, under ``start``.

    Args:
        checkpoint: where training starts; None for fresh weights.
        run: the run that goes on; None for a new one.

    Returns:
        The checkpoint's path, its SHA-256, and that of the run's last checkpoint at the time, if it has one.
    """
    if checkpoint is None:
        return None
    path = checkpoint.resolve()
    if run is not None and path == (run.path / _LAST).resolve():  # where any run goes on
        return None
    inside = run is not None and path.is_relative_to(run.path.resolve())
    name = path.relative_to(run.path.resolve()) if run is not None and inside else path
    return {
        "checkpoint": str(name),
        "sha256": _digest(path),
        "last": None if run is None else last_digest(run),
    }


def pending_start(run: Run) -> Path | None:
    """The checkpoint that a run started from, where it has written none since; else None.

    Raises:
        UserError: the file is gone, or is no longer the one that the run started from.
    """
    start = run.record.get("start")
    if not isinstance(start, dict) or "checkpoint" not in start:
        return None
    if last_digest(run) != start.get("last"):
        return None
    path = run.path / start["checkpoint"]
    if not path.is_file() or _digest(path) != start.get("sha256"):
        what = "was changed since" if path.is_file() else "is gone"
        remedy = f"; to go on from another one: plcourse fit --run {run.name} --ckpt_path FILE"
        raise UserError(f"run {run.name} started from the checkpoint {path}, which {what}{remedy}")
    return path


def last_digest(run: Run) -> str | None:
    """The SHA-256 of a run's last checkpoint; None where it has none."""
    last = run.path / _LAST
    return _digest(last) if last.is_file() else None


def _digest(path: Path) -> str:
    """The SHA-256 of a checkpoint: the one beside it, which is verified when the file is read, if there is one."""
    beside = path.with_name(path.name + ".sha256")
    known = beside.read_text().split() if beside.is_file() else []
    if len(known) == 1:
        return known[0]
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
