"""Folders named after the time at which they were made, and the link `latest` beside them. No torch."""

import contextlib
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from plcourse.errors import RunFailed, UserError
from plcourse.files import folders, locked, make_folder, sync, temporary_beside
from plcourse.runs.record import read_record

STAMP = re.compile(r"\d{8}-\d{6}(?:-\d+)?")


@contextlib.contextmanager
def new_folder(parent: Path) -> Iterator[Path]:
    """Makes `<parent>/<YYYYMMDD-HHMMSS>[-n]/` and points `latest` at it when the block has filled it.

    If the block raises RunFailed, an empty folder is removed.
    """
    make_folder(parent)
    with locked(parent):
        path = _stamped_folder(parent)
        try:
            yield path
        except RunFailed:
            with contextlib.suppress(OSError):
                path.rmdir()
            raise
        _point_latest(parent, path.name)
        sync(parent)


def settle_latest(run: Path) -> None:
    """Points `latest` at the newest run after one has ended, except runs that failed before their first checkpoint.

    A run that was interrupted or killed stays the latest, so that it can be resumed by that name. The link is removed
    if no run qualifies. Folders without a time in their name, such as a sweep's cells, have no `latest`.
    """
    run = run.resolve()
    if not STAMP.fullmatch(run.name):
        return
    with locked(run.parent):
        runs = (folder for folder in folders(run.parent) if (folder / "run.json").is_file())
        newest = max((folder for folder in runs if not _failed_early(folder)), key=age_key, default=None)
        if newest is not None:
            _point_latest(run.parent, newest.name)
        else:
            (run.parent / "latest").unlink(missing_ok=True)


def latest_folder(parent: Path, record: str = "run.json") -> Path | None:
    """Returns the folder that `latest` names, else the newest one with a record, else None."""
    link = parent / "latest"
    target = None
    if link.is_symlink():
        target = parent / link.readlink()
    elif link.is_file():
        target = parent / Path(link.read_text(encoding="utf-8", errors="replace").strip()).name
    if target is not None and (target / record).is_file():
        return target
    return max((folder for folder in folders(parent) if (folder / record).is_file()), key=age_key, default=None)


def find_folder(candidate: Path, record: str = "run.json") -> Path | None:
    """Returns the folder with a record that a path means: itself, its `latest`, or the newest folder in it."""
    try:
        if candidate.name == "latest":
            return latest_folder(candidate.parent, record)
        return candidate if (candidate / record).is_file() else latest_folder(candidate, record)
    except OSError:  # an impossible name, or a folder without read permission
        return None


def age_key(folder: Path) -> tuple[str, int]:
    """Sorts runs by time and, within a second, by number; other names come first."""
    if not STAMP.fullmatch(folder.name):
        return "", 0
    return folder.name[:15], int(folder.name[16:] or 1)


def _stamped_folder(parent: Path) -> Path:
    path = stamped = parent / datetime.now().strftime("%Y%m%d-%H%M%S")
    number = 1
    while True:
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
            path = stamped.with_name(f"{stamped.name}-{number}")
        else:
            return path


def _point_latest(parent: Path, name: str) -> None:
    """Makes `latest` a relative link to a run, or a file with its name where links are not possible."""
    link = parent / "latest"
    temporary = temporary_beside(link)
    try:
        temporary.symlink_to(name, target_is_directory=True)
    except (OSError, NotImplementedError):  # no permission, or no links on this file system or platform
        temporary.write_text(f"{name}\n", encoding="utf-8")
    try:
        temporary.replace(link)
    except OSError:  # a folder of this name exists; readers then look for the newest run
        temporary.unlink()


def _failed_early(folder: Path) -> bool:
    try:
        failed = read_record(folder / "run.json").get("status") == "failed"
    except UserError:  # an unreadable record does not mean failure
        return False
    return failed and not any((folder / "checkpoints").glob("*.ckpt"))
