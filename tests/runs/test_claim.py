"""One process at a time may write into a run: after a kill, under another host name, and without locks."""

import errno
import fcntl
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from plcourse.files import LOCK, is_locked, release, try_lock
from plcourse.runs.claim import claimed
from plcourse.runs.environment import Process
from run_folders import made, message, script

HERE = Process.current()
ELSEWHERE = Process("elsewhere", 7, None)
GONE = Process(HERE.host, 2**30, None)


def running(process: Process) -> dict[str, Any]:
    """The record of a run that a process trains."""
    hardware = {"hostname": process.host}
    return {"status": "running", "pid": process.pid, "pid_start": process.start, "hardware": hardware}


def claim(folder: Path, record: dict[str, Any] | None = None, force: bool = False) -> None:
    """Claims a folder for a moment."""
    with claimed(folder, "run x", record or {}, force):
        pass


def refused(folder: Path, record: dict[str, Any] | None = None, force: bool = False) -> str:
    return message(claim, folder, record, force)


@contextmanager
def named(folder: Path, process: Process) -> Iterator[None]:
    """Holds the lock of a folder as a process does that cannot be seen from here."""
    handle, _ = try_lock(folder / LOCK)
    os.write(handle, json.dumps(process).encode())
    yield
    release(handle)


@pytest.fixture
def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", refuse)


class TestLocks:
    def test_a_second_claim_is_refused_until_the_first_ends(self, tmp_path: Path) -> None:
        with claimed(tmp_path, "run x", {}):
            assert refused(tmp_path) == f"run x is still running (process {os.getpid()})"
            assert refused(tmp_path, force=True) == refused(tmp_path), "it can be seen to live"
        assert list(tmp_path.iterdir()) == []
        claim(tmp_path)

    @pytest.mark.parametrize("earlier", [GONE, ELSEWHERE])
    def test_a_lock_that_is_free_proves_that_its_process_is_gone(self, tmp_path: Path, earlier: Process) -> None:
        run = made(tmp_path, "20260101-000000", **running(earlier))
        assert run.status == ("running" if earlier == ELSEWHERE else "killed"), "nobody has had the lock"
        with named(run.path, earlier):
            assert run.status == "running"
        assert run.status == "killed"
        with claimed(run.path, "run x", running(earlier)):
            assert run.status == "running"
            assert json.loads((run.path / LOCK).read_text()) == list(HERE)

    def test_a_lock_that_is_held_where_nobody_can_look_is_left_by_force_only(self, tmp_path: Path) -> None:
        with named(tmp_path, GONE):  # in another container, whose processes have other numbers
            line = refused(tmp_path)
            assert line.startswith(f"run x is still running (process {GONE.pid} on {GONE.host}), as far as can be seen")
            assert line.endswith("add --force")
            with claimed(tmp_path, "run x", {}, force=True):
                assert refused(tmp_path, force=True) == f"run x is still running (process {os.getpid()})"
            assert not (tmp_path / LOCK).exists()

    def test_who_is_forced_out_does_not_take_the_lock_of_the_other(self, tmp_path: Path) -> None:
        handle, _ = try_lock(tmp_path / LOCK)
        with claimed(tmp_path, "run x", {}, force=True):
            release(handle, tmp_path / LOCK)
            assert is_locked(tmp_path / LOCK)

    def test_a_look_at_the_status_does_not_stand_in_the_way(self, tmp_path: Path) -> None:
        handle = os.open(tmp_path / LOCK, os.O_RDWR | os.O_CREAT)
        fcntl.flock(handle, fcntl.LOCK_SH)
        other, locked = try_lock(tmp_path / LOCK)
        assert locked is False
        release(other)
        os.close(handle)
        assert is_locked(tmp_path / LOCK) is False

    @pytest.mark.parametrize(
        ("earlier", "said"),
        [
            (Process(HERE.host, os.getppid(), None), f"(process {os.getppid()})"),
            (ELSEWHERE, "7 on elsewhere"),
            (GONE, ""),
        ],
    )
    def test_a_run_of_0_1_0_is_judged_by_its_record(self, tmp_path: Path, earlier: Process, said: str) -> None:
        if said:
            assert said in refused(tmp_path, running(earlier))
            assert not (tmp_path / LOCK).exists(), "an unlocked file would say that it was killed"
        claim(tmp_path, running(GONE))
        if earlier == ELSEWHERE:
            claim(tmp_path, running(ELSEWHERE), force=True)


@pytest.mark.usefixtures("no_locks")
class TestWithoutLocks:
    def test_a_second_claim_is_refused_until_the_first_ends(self, tmp_path: Path) -> None:
        with claimed(tmp_path, "run x", {}):
            for force in (False, True):
                assert refused(tmp_path, force=force) == f"run x is still running (process {os.getpid()})"
        claim(tmp_path)

    def test_a_killed_process_of_this_machine_is_seen_and_another_machine_takes_force(self, tmp_path: Path) -> None:
        for process, force in ((GONE, False), (ELSEWHERE, True)):
            (tmp_path / LOCK).write_text(json.dumps(process))
            if force:
                assert "add --force" in refused(tmp_path)
            with claimed(tmp_path, "run x", {}, force):
                assert json.loads((tmp_path / LOCK).read_text()) == list(HERE)

    def test_a_command_killed_while_it_decided(self, tmp_path: Path) -> None:
        (tmp_path / ".claiming").mkdir()
        assert refused(tmp_path) == "another command is about to use run x; if none is, add --force"
        claim(tmp_path, force=True)
        assert not (tmp_path / ".claiming").exists()


@pytest.mark.medium
def test_a_child_of_a_killed_process_does_not_keep_its_lock(tmp_path: Path) -> None:
    code = """
from plcourse.runs.claim import claimed
with claimed(Path(sys.argv[1]), "run x", {}):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(100)
"""
    process: Any = script(code, tmp_path, stdout=subprocess.PIPE)
    child = int(process.stdout.readline())
    try:
        assert f"is still running (process {process.pid})" in refused(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        os.kill(child, 0)  # it lives
        claim(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()
