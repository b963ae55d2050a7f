"""Checkpoints are written whole or not at all, despite full disks, kills, flipped bits and foreign files."""

import contextlib
import hashlib
import os
import pickle
import resource
import shutil
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from checkpoint_files import FORK, content, one_line, run_script, save, temporary_files, value_of
from plcourse.errors import RunFailed, UserError
from plcourse.training.checkpoint import AtomicCheckpointIO, link, load, verify


class TestFile:
    def test_what_is_saved_is_what_is_loaded(self, tmp_path: Path) -> None:
        path = tmp_path / "new" / "last.ckpt"
        save(path, 0.1)
        loaded = AtomicCheckpointIO().load_checkpoint(path, weights_only=False)
        assert torch.equal(loaded["state_dict"]["weight"], content(0.1)["state_dict"]["weight"])
        assert loaded["epoch"] == 3
        assert torch.load(path, weights_only=True).keys() == loaded.keys()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert (path.parent / "last.ckpt.sha256").read_text() == f"{digest}\n"
        assert sorted(p.name for p in path.parent.iterdir()) == ["last.ckpt", "last.ckpt.sha256"]

    def test_a_checkpoint_is_removed_with_its_checksum(self, tmp_path: Path) -> None:
        save(tmp_path / "x.ckpt")
        AtomicCheckpointIO().remove_checkpoint(tmp_path / "x.ckpt")
        AtomicCheckpointIO().remove_checkpoint(tmp_path / "x.ckpt")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("how", ["flipped bit", "truncated", "missing", "empty", "text", "pickle", "no Lightning"])
    @pytest.mark.parametrize("checksum", ["with checksum", "without checksum"])
    def test_a_broken_file_is_refused_in_one_line_that_offers_an_intact_one(
        self, tmp_path: Path, how: str, checksum: str
    ) -> None:
        path, marker = tmp_path / "last.ckpt", tmp_path / "executed"
        save(path)
        save(tmp_path / "previous.ckpt", 2.0)
        whole = path.read_bytes()
        damaged = {
            "flipped bit": bytes([*whole[:900], whole[900] ^ 1, *whole[901:]]),
            "truncated": whole[: len(whole) // 2],
            "empty": b"",
            "text": b"epoch: 3\n",
            "pickle": pickle.dumps({"state_dict": {}, "surprise": Surprise(marker)}, protocol=2),
        }
        if how == "missing":
            path.unlink()
        elif how == "no Lightning":
            torch.save({"model": torch.ones(3)}, path)
        else:
            path.write_bytes(damaged[how])
        if checksum == "without checksum" and how != "flipped bit":  # which nothing but the checksum can tell
            (tmp_path / "last.ckpt.sha256").unlink()
        with pytest.raises(UserError) as caught:
            AtomicCheckpointIO().load_checkpoint(path)
        message = one_line(caught.value)
        assert str(path) in message
        assert f"--ckpt_path {tmp_path / 'previous.ckpt'}" in message
        assert not marker.exists()

    def test_what_is_verified_is_what_is_loaded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another command replaces the file as soon as its checksum is computed, and as soon as it is opened."""
        path, digest, opened = tmp_path / "last.ckpt", hashlib.file_digest, Path.open
        save(path, 1.0)

        def late(*arguments: Any) -> Any:
            found = digest(*arguments)
            (tmp_path / "hostile").write_bytes(b"hostile")
            (tmp_path / "hostile").replace(path)
            return found

        with monkeypatch.context() as patch:
            patch.setattr(hashlib, "file_digest", late)
            assert load(path)["state_dict"]["weight"][0] == 1.0
        save(path, 1.0)
        newer = iter([2.0])

        def early(self: Path, *arguments: Any, **options: Any) -> Any:
            file = opened(self, *arguments, **options)
            if self == path and (value := next(newer, None)) is not None:
                save(path, value)
            return file

        monkeypatch.setattr(Path, "open", early)
        assert load(path)["state_dict"]["weight"][0] == 2.0, "whose checksum the first file does not have"

    @pytest.mark.filterwarnings("always")
    def test_a_foreign_pickle_is_refused_without_a_warning_beside_the_line(
        self, tmp_path: Path, recwarn: pytest.WarningsRecorder
    ) -> None:
        path = tmp_path / "x.ckpt"
        path.write_bytes(pickle.dumps({"state_dict": {}, "surprise": Surprise(tmp_path / "executed")}))
        with pytest.raises(UserError, match="would run code"):
            load(path)
        assert [str(warning.message) for warning in recwarn] == []

    def test_only_a_file_that_is_itself_intact_is_offered(self, tmp_path: Path) -> None:
        for name in ("last.ckpt", "previous.ckpt", "best.ckpt"):
            save(tmp_path / name)
        for name in ("last.ckpt", "previous.ckpt"):
            (tmp_path / name).write_bytes(b"broken")
        with pytest.raises(UserError, match=r"best\.ckpt is intact"):
            load(tmp_path / "last.ckpt")
        (tmp_path / "best.ckpt").write_bytes(b"broken")
        with pytest.raises(UserError) as caught:
            load(tmp_path / "last.ckpt")
        assert "intact" not in str(caught.value)

    def test_a_file_in_the_way_of_the_folder_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "run").write_text("no folder")
        with pytest.raises(RunFailed) as caught:
            save(tmp_path / "run" / "checkpoints" / "last.ckpt")
        assert str(tmp_path / "run" / "checkpoints" / "last.ckpt") in one_line(caught.value)

    def test_what_cannot_be_pickled_leaves_the_old_file_and_no_temporary_one(self, tmp_path: Path) -> None:
        path = tmp_path / "last.ckpt"
        save(path, 7.0)
        with pytest.raises(RunFailed, match=r"last\.ckpt"):
            AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "callback": lambda: None}, path)
        assert value_of(path) == 7.0
        assert temporary_files(tmp_path) == []


Disk = tuple[Path, Callable[[], AbstractContextManager[None]]]


class Surprise:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A folder, and a context in which no byte more can be written to it.

    A separate file system of one MiB, if this user may mount one; otherwise a limit on the size of files, which fails
    in the same call.
    """
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    mounted = bool(shutil.which("mount")) and subprocess.run(mount, capture_output=True).returncode == 0

    @contextlib.contextmanager
    def full_disk() -> Iterator[None]:
        filler = folder / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        yield
        filler.unlink()

    @contextlib.contextmanager
    def no_larger_files() -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    try:
        yield folder, full_disk if mounted else no_larger_files
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


class TestFullDisk:
    @pytest.mark.medium
    @pytest.mark.parametrize("size", [1000, 100_000])
    def test_the_old_checkpoint_stays_and_no_temporary_file(self, disk: Disk, size: int) -> None:
        folder, full = disk
        path = folder / "last.ckpt"
        save(path, 7.0)
        with full():
            with pytest.raises(RunFailed) as caught:
                save(path, 8.0, size)
            assert str(path) in one_line(caught.value)
            assert temporary_files(folder) == []
            assert value_of(path) == 7.0
        save(path, 9.0)
        assert value_of(path) == 9.0

    @pytest.mark.medium
    def test_a_second_name_for_a_checkpoint_fails_the_same_way(self, disk: Disk) -> None:
        folder, full = disk
        save(folder / "last.ckpt", 7.0)
        save(folder / "previous.ckpt", 6.0)
        with full():
            with pytest.raises(RunFailed) as caught:
                link(folder / "last.ckpt", folder / "previous.ckpt")
            assert str(folder / "previous.ckpt") in one_line(caught.value)
            assert temporary_files(folder) == []
            assert (value_of(folder / "previous.ckpt"), value_of(folder / "last.ckpt")) == (6.0, 7.0)


@pytest.fixture(scope="class")
def torn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """What a file held after writes that were killed just before one of the three renames of each."""
    script = """
        for first in (1, 2, 3):
            for second in (1, 2, 3):
                folder = Path(sys.argv[1]) / f"{first}{second}"
                last, values = folder / "last.ckpt", []
                save(last, 0)
                for value, number in enumerate((first, second), start=1):
                    killed(lambda: (die_at_rename(number), save(last, value)))
                    values.append(value_of(last))
                save(last, 9)
                print(f"twice-{first}-{second}", *values, value_of(last))
            folder = Path(sys.argv[1]) / f"{first}"
            save(folder / "last.ckpt", 1)
            killed(lambda: (die_at_rename(first), save(folder / "last.ckpt", 2)))
            ck.link(folder / "last.ckpt", folder / "previous.ckpt")
            print(f"link-{first}", value_of(folder / "last.ckpt"), value_of(folder / "previous.ckpt"))
    """
    lines = run_script(FORK + textwrap.dedent(script), tmp_path_factory.mktemp("torn")).splitlines()
    return {line.split()[0]: [float(value) for value in line.split()[1:]] for line in lines}


class TestKills:
    @pytest.mark.medium
    def test_killed_at_any_time_while_writing_for_ever(self, tmp_path: Path) -> None:
        script = """
            path = Path(sys.argv[1]) / "last.ckpt"
            save(path, -1, 1 << 20)
            chooser, seen = random.Random(5), []
            def write_for_ever():
                for value in range(10**6):
                    save(path, value, 1 << 20)
            for _ in range(10):
                killed(write_for_ever, after=chooser.uniform(0.0, 0.6))
                assert ck.verify(path)
                seen.append(value_of(path))
            print(len(seen), max(seen))
        """
        kills, written = run_script(FORK + textwrap.dedent(script), tmp_path).split()
        assert int(kills) == 10
        assert float(written) > 1  # some writes had come through

    @pytest.mark.medium
    @pytest.mark.parametrize("first", [1, 2, 3])
    @pytest.mark.parametrize("second", [1, 2, 3])
    def test_killed_twice_between_two_steps_of_a_write(
        self, torn: dict[str, list[float]], first: int, second: int
    ) -> None:
        values = torn[f"twice-{first}-{second}"]
        assert values[0] in (0, 1)
        assert values[1] in (values[0], 2)
        assert values[2] == 9

    @pytest.mark.medium
    @pytest.mark.parametrize("number", [1, 2, 3])
    def test_a_checkpoint_whose_replacement_was_cut_short_can_become_the_previous_one(
        self, torn: dict[str, list[float]], number: int
    ) -> None:
        last, previous = torn[f"link-{number}"]
        assert last in (1, 2)
        assert previous == last


class TestLink:
    def test_a_second_name_is_the_same_file(self, tmp_path: Path) -> None:
        save(tmp_path / "last.ckpt", 5.0)
        save(tmp_path / "best.ckpt", 4.0)
        link(tmp_path / "last.ckpt", tmp_path / "best.ckpt")
        assert (tmp_path / "last.ckpt").samefile(tmp_path / "best.ckpt")
        assert verify(tmp_path / "best.ckpt")
        save(tmp_path / "last.ckpt", 6.0)  # replaces the one, leaves the other
        assert (value_of(tmp_path / "last.ckpt"), value_of(tmp_path / "best.ckpt")) == (6.0, 5.0)
        assert temporary_files(tmp_path) == []

    def test_without_hard_links_it_is_a_copy(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(*arguments: Any) -> None:
            raise OSError("no hard links here")

        monkeypatch.setattr(os, "link", refused)
        save(tmp_path / "last.ckpt", 5.0)
        link(tmp_path / "last.ckpt", tmp_path / "best.ckpt")
        assert not (tmp_path / "last.ckpt").samefile(tmp_path / "best.ckpt")
        assert verify(tmp_path / "best.ckpt")
        assert value_of(tmp_path / "best.ckpt") == 5.0
        assert temporary_files(tmp_path) == []
