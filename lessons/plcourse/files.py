"""Files that are written whole or not at all, locks on folders, and patterns in paths. No torch."""

import contextlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from glob import glob
from pathlib import Path
from typing import Any

from plcourse.errors import RunFailed, UserError

try:
    import fcntl
except ImportError:  # on Windows, where runs started in the same second may race for `latest`
    fcntl = None

LOCK = ".lock"  # the file in a folder whose lock says that a process writes into the folder
_TRIES, _PAUSE = 20, 0.01  # attempts at a lock that is held, and the seconds between two of them
_handles: set[int] = set()  # the open lock files of this process


@contextlib.contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Replaces a file in one step: readers, and a crash, find either the old content or the new.

    The block writes to the temporary path that it gets, in the same folder. If it raises, the old file stays. The
    temporary file is removed in either case.

    Raises:
        RunFailed: the file cannot be written.
    """
    try:
        with staged(file) as temporary:
            yield temporary
    except OSError as error:
        raise RunFailed(f"cannot write '{file}': {error.strerror or error}") from error


@contextlib.contextmanager
def staged(file: Path, sync_folder: bool = True) -> Iterator[Path]:
    """Does what `atomic_write` does, for callers that turn an OSError into a different message; see `publish`."""
    temporary = temporary_beside(file)
    try:
        yield temporary
        publish(temporary, file, sync_folder)
    finally:  # also when Ctrl-C comes in between
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def publish(temporary: Path, file: Path, sync_folder: bool = True) -> None:
    """Gives a complete temporary file its final name, once its content is on disk.

    Args:
        temporary: a closed file in the folder of `file`.
        file: the final name; a file of that name is replaced.
        sync_folder: whether to wait until the new name is on disk as well.
    """
    sync(temporary)
    temporary.replace(file)
    if sync_folder:
        sync(file.parent)


def sync(path: Path) -> None:
    """Waits until the content of a file, or the names in a folder, are on disk."""
    is_folder = path.is_dir()
    if is_folder and os.name != "posix":  # Windows cannot open a folder
        return
    # Some file systems cannot sync a folder, and one that may not be read cannot be opened.
    with contextlib.suppress(OSError) if is_folder else contextlib.nullcontext():
        handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it that do not exist, and waits until their names are on disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def temporary_beside(file: Path) -> Path:
    """Returns a hidden name in the folder of `file` that no other process or thread uses."""
    return file.with_name(f".{file.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def link_or_copy(path: Path, other: Path) -> None:
    """Gives a file a second name, or copies it where the file system has no hard links."""
    try:
        other.hardlink_to(path)
    except OSError:
        shutil.copyfile(path, other)


def write_text(file: Path, text: str) -> None:
    """Replaces the content of a file by a text in UTF-8; see `atomic_write`."""
    with atomic_write(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Replaces the content of a file by a JSON object; see `atomic_write`."""
    write_text(file, json.dumps(content, indent=2, default=str) + "\n")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Waits for the lock of a folder and holds it in the block; it also ends with the process, even if killed."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def hold(folder: Path, what: str) -> int:
    """Locks a folder by its file `LOCK` until the returned handle is released; without locks, it only makes the file.

    Args:
        folder: an existing folder.
        what: what is written into it, for the message.

    Raises:
        UserError: another process holds the lock.
    """
    handle, mine = try_lock(folder / LOCK)
    if mine is False:
        release(handle)
        raise UserError(f"another process is writing {what} into '{folder}'")
    return handle


def try_lock(file: Path) -> tuple[int, bool | None]:
    """Opens a file, which is made if it does not exist, and locks it without waiting.

    The lock ends with `release` or with this process. Children forked from it do not keep the lock.

    Returns:
        The open file, and whether it is locked now: False if another process has the lock, None if the system or the
        file system has no locks.

    Raises:
        OSError: the file cannot be opened.
    """
    tries = 0
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        _handles.add(handle)
        try:
            if fcntl is None:
                return handle, None
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle), file.stat()):
                return handle, True
        except BlockingIOError:
            if (tries := tries + 1) == _TRIES:
                return handle, False
        except FileNotFoundError:  # another process has just replaced the file
            pass
        except OSError:  # some network file systems have no locks
            return handle, None
        release(handle)
        time.sleep(_PAUSE)  # `is_locked` holds a lock for a moment


def release(handle: int, file: Path | None = None) -> None:
    """Closes what `try_lock` has opened, which ends the lock.

    Args:
        handle: the open file.
        file: its path, to remove it as well, unless another process has replaced it.
    """
    with contextlib.suppress(OSError):
        if file is not None and os.path.samestat(os.fstat(handle), file.stat()):
            file.unlink()
    _handles.discard(handle)
    os.close(handle)


def is_locked(file: Path) -> bool | None:
    """Returns whether a process holds the lock of a file; None if there is no such file or no lock can be seen."""
    if fcntl is None:
        return None
    try:
        handle = os.open(file, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    else:
        return False
    finally:
        os.close(handle)


def _close_in_child() -> None:
    """Keeps a forked child from holding the locks of a parent that has died."""
    while _handles:
        os.close(_handles.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def folders(parent: Path) -> list[Path]:
    """Returns the folders in a folder, without links; none if it does not exist or cannot be read."""
    try:
        with os.scandir(parent) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def expand(path: str) -> list[str]:
    """Returns the existing paths that a pattern matches, sorted; a path that exists matches itself alone.

    So a file named ``img[1].png`` is found by its name. ``**`` matches folders at any depth.
    """
    if os.path.lexists(Path(path)):
        return [path]
    return sorted(glob(path, recursive=True))  # noqa: PTH207  (pathlib's takes no absolute patterns)
