"""Which run `latest` names: the newest one, but none that failed before it had written a checkpoint.

A run that was interrupted or killed stays the latest, so that it can be resumed by that name. No torch here.
"""

from pathlib import Path

from plcourse.errors import UserError
from plcourse.files import folders, locked
from plcourse.runs.folders import STAMP, age_key, point_latest
from plcourse.runs.record import read_record
from plcourse.runs.run import Run


def settle_latest(run: Run) -> None:
    """Points `latest` where it belongs after a run has ended; it is removed where no run of the folder deserves it."""
    parent = run.path.resolve().parent
    if not STAMP.fullmatch(run.path.resolve().name):  # such as a cell of a sweep, which no `latest` lies beside
        return
    with locked(parent):
        found = [
            folder for folder in folders(parent) if (folder / "run.json").is_file() and not _came_to_nothing(folder)
        ]
        if found:
            point_latest(parent, max(found, key=age_key).name)
        else:
            (parent / "latest").unlink(missing_ok=True)


def _came_to_nothing(folder: Path) -> bool:
    try:
        failed = read_record(folder / "run.json").get("status") == "failed"
    except UserError:  # unreadable is not failed
        return False
    return failed and not any((folder / "checkpoints").glob("*.ckpt"))
