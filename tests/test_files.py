"""Names of files and folders that survive a power failure, where the file system can promise that."""

import errno
import os
from pathlib import Path

import pytest

from plcourse.files import make_folder, write_text


def test_a_new_folder_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(Path(f"/proc/self/fd/{handle}").readlink()))
    make_folder(tmp_path / "a" / "b")
    assert synced == [tmp_path, tmp_path / "a"]
    make_folder(tmp_path / "a" / "b")
    assert len(synced) == 2


def test_a_folder_that_cannot_be_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, refused = os.fsync, []

    def files_only(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").is_dir():
            refused.append(handle)
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        sync(handle)

    monkeypatch.setattr(os, "fsync", files_only)
    make_folder(tmp_path / "a")
    write_text(tmp_path / "a" / "x", "new")
    assert (tmp_path / "a" / "x").read_text() == "new"
    assert len(refused) == 2
