"""The right to write into the folder of a run or a sweep, which one process has at a time. No torch.

The process that trains holds an exclusive lock on ``.lock`` until it ends, however it ends. So a run that was killed
can be continued under another host name or on another machine, and never by two commands at once. Ranks and loader
workers do not hold the lock, since they end with that process. The file names the process, for messages and for file
systems without locks; there, a process can be seen to be gone only on its own machine.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from plcourse.errors import RunFailed, UserError
from plcourse.files import LOCK, release, try_lock
from plcourse.runs.environment import Process
from plcourse.runs.record import process_of

_CLAIMING = ".claiming"  # a folder that exists while a command decides without a lock
_CLAIM_SECONDS = 1.0  # a decision takes a millisecond


@contextlib.contextmanager
def claimed(folder: Path, what: str, record: Mapping[str, object], force: bool = False) -> Iterator[None]:
    """Keeps all other processes from writing into a folder in the block.

    Args:
        folder: of a run or a sweep.
        what: its kind and name, for messages.
        record: the content of its ``run.json`` or ``sweep.json``.
        force: take the folder also from a process of which nobody can say whether it exists.

    Raises:
        UserError: another process is writing into the folder, or may be.
        RunFailed: the folder cannot be written.
    """
    try:
        handle = _claim(folder, what, record, force)
    except OSError as error:
        raise RunFailed(f"cannot write '{error.filename or folder / LOCK}': {error.strerror}") from error
    try:
        yield
    finally:
        release(handle, folder / LOCK)


def _claim(folder: Path, what: str, record: Mapping[str, object], force: bool) -> int:
    """Returns the locked file, or the open file where there are no locks."""
    file = folder / LOCK
    known = file.exists()
    handle, locked = try_lock(file)
    try:
        with contextlib.nullcontext() if locked else _deciding(folder, what, force):
            if not (locked and known):  # otherwise the earlier process is gone, on whatever machine it was
                earlier = _named_in(file) or _recorded(record)
                lives = earlier.lives if earlier else False
                if locked is False and not lives:  # it is on another machine or in another container
                    lives = None
                if lives or (lives is None and not force):
                    raise UserError(_in_use(what, earlier, lives))
            if locked is False:
                release(handle, file)  # the other process, if there is one, keeps the lock of the old file
                handle, locked = try_lock(file)
                if not locked:
                    raise UserError(_in_use(what, _named_in(file), True))
            name = json.dumps(Process.current())
            if locked:
                os.ftruncate(handle, 0)
                os.pwrite(handle, name.encode(), 0)
            else:  # the file that was opened may be gone
                file.write_text(name)
    except BaseException:
        release(handle, file if locked else None)  # another process's file stays
        raise
    return handle


def _recorded(record: Mapping[str, object]) -> Process | None:
    """Returns the process that a record says to be running; None if it is this one, which has made the folder."""
    process = process_of(record) if record.get("status") == "running" else None
    return None if process == Process.current() else process


def _named_in(file: Path) -> Process | None:
    """Returns the process that a lock file names; None if it names none."""
    try:
        return Process(*json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):  # missing, empty, or cut short by a kill
        return None


def _in_use(what: str, process: Process | None, lives: bool | None) -> str:
    name = f"process {process.pid}" if process else "another process"
    if lives:
        return f"{what} is still running ({name})"
    place = f" on {process.host}" if process and process.host else ""
    return f"{what} is still running ({name}{place}), as far as can be seen from here; if it is not, add --force"


@contextlib.contextmanager
def _deciding(folder: Path, what: str, force: bool) -> Iterator[None]:
    """Lets one command at a time decide about a folder, by a means that needs no locks."""
    place, deadline = folder / _CLAIMING, time.monotonic() + _CLAIM_SECONDS
    while True:
        try:
            place.mkdir()
            break
        except FileExistsError as error:
            if time.monotonic() > deadline:
                if force:  # left behind by a killed command
                    break
                raise UserError(f"another command is about to use {what}; if none is, add --force") from error
            time.sleep(0.01)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            place.rmdir()
