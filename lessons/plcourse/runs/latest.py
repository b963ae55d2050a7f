"""Decides which run `latest` names: the newest, except runs that failed before their first checkpoint. No torch.

A run that was interrupted or killed stays the latest, so that it can be resumed by that name.
"""

from pathlib import Path

from plcourse.errors import UserError
from plcourse.files import folders, locked
from plcourse.runs.folders import STAMP, age_key, point_latest
from plcourse.runs.record import read_record
from plcourse.runs.run import Run


def settle_latest(run: Run) -> None:
    """Updates `latest` after a run has ended, and removes it if no run qualifies."""
    parent = run.path.resolve().parent
    if not STAMP.fullmatch(run.path.resolve().name):  # such as a cell of a sweep, which has no `latest`
        return
    with locked(parent):
        found = [folder for folder in folders(parent) if (folder / "run.json").is_file() and not _failed_early(folder)]
        if found:
            point_latest(parent, max(found, key=age_key).name)
        else:
            (parent / "latest").unlink(missing_ok=True)


def _failed_early(folder: Path) -> bool:
    try:
        failed = read_record(folder / "run.json").get("status") == "failed"
    except UserError:  # an unreadable record does not mean failure
        return False
    return failed and not any((folder / "checkpoints").glob("*.ckpt"))
