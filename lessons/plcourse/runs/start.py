"""Records the checkpoint that a run started from, until the run has written a checkpoint itself. No torch.

If a run is killed before its first checkpoint and resumed, it must start where its command said: neither from untrained
weights nor from a later checkpoint that the command did not choose.
"""

import hashlib
from pathlib import Path

from plcourse.errors import UserError
from plcourse.runs.record import Start
from plcourse.runs.run import Run

_LAST = Path("checkpoints", "last.ckpt")


def start_record(checkpoint: Path | None, run: Run | None = None) -> Start | None:
    """Returns the field ``start`` of ``run.json``.

    Args:
        checkpoint: the checkpoint that training starts from; None for untrained weights.
        run: the run that continues; None for a new one.

    Returns:
        The path and SHA-256 of the checkpoint, and the SHA-256 of the run's last checkpoint at that time, if any.
    """
    if checkpoint is None:
        return None
    path = checkpoint.resolve()
    if run is not None and path == (run.path / _LAST).resolve():  # where every run continues
        return None
    inside = run is not None and path.is_relative_to(run.path.resolve())
    name = path.relative_to(run.path.resolve()) if run is not None and inside else path
    return {
        "checkpoint": str(name),
        "sha256": _digest(path),
        "last": None if run is None else last_digest(run),
    }


def pending_start(run: Run) -> Path | None:
    """Returns the checkpoint that a run started from if it has written none since; else None.

    Raises:
        UserError: the file is gone or has changed.
    """
    start = run.record.get("start")
    if not isinstance(start, dict) or "checkpoint" not in start:
        return None
    if last_digest(run) != start.get("last"):
        return None
    path = run.path / start["checkpoint"]
    if not path.is_file() or _digest(path) != start.get("sha256"):
        what = "has changed since" if path.is_file() else "is gone"
        remedy = f"; to continue from another one: plcourse fit --run {run.name} --ckpt_path FILE"
        raise UserError(f"run {run.name} started from the checkpoint {path}, which {what}{remedy}")
    return path


def last_digest(run: Run) -> str | None:
    """Returns the SHA-256 of a run's last checkpoint; None where it has none."""
    last = run.path / _LAST
    return _digest(last) if last.is_file() else None


def _digest(path: Path) -> str:
    """The SHA-256 of a checkpoint, from the file beside it if there is one; loading verifies it."""
    beside = path.with_name(path.name + ".sha256")
    known = beside.read_text().split() if beside.is_file() else []
    if len(known) == 1:
        return known[0]
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
