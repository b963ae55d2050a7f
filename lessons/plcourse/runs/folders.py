"""Folders that are named after the time they were made at, and the link `latest` beside them. No torch."""

import contextlib
import re
from collections.abc import Iterator
from datetime import datetime
from itertools import count
from pathlib import Path

from plcourse.errors import RunFailed
from plcourse.files import folders, locked, temporary_beside

STAMP = re.compile(r"\d{8}-\d{6}(?:-\d+)?")


@contextlib.contextmanager
def new_folder(parent: Path) -> Iterator[Path]:
    """Makes `<parent>/<YYYYMMDD-HHMMSS>[-n]/` and points `latest` at it when the block has filled it.

    If the block raises RunFailed, an empty folder is removed.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with locked(parent):
        path = _stamped_folder(parent)
        try:
            yield path
        except RunFailed:
            with contextlib.suppress(OSError):
                path.rmdir()
            raise
        point_latest(parent, path.name)


def _stamped_folder(parent: Path) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in count(1):
        path = parent / (stamp if number == 1 else f"{stamp}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError("count() has no end")


def point_latest(parent: Path, name: str) -> None:
    """Makes `latest` a relative link to a run, or a file with its name where links are not possible."""
    link = parent / "latest"
    temporary = temporary_beside(link)
    try:
        temporary.symlink_to(name, target_is_directory=True)
    except (OSError, NotImplementedError):
        temporary.write_text(f"{name}\n", encoding="utf-8")
    try:
        temporary.replace(link)
    except OSError:  # a folder of this name exists; readers then look for the newest run
        temporary.unlink()


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
