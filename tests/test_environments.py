"""The environments that the tests ran in: the table shows the records, and another Python is found if there is one."""

import subprocess
import sys
from pathlib import Path

import pytest
from scripts.tools import environments


def test_the_table_shows_the_records() -> None:
    page = environments.PAGE.read_text(encoding="utf-8")
    assert environments.written(page) == page
    found = environments.records()
    assert len(found) >= 5
    assert all(each.passed >= 8 and not each.failed for each in found.values())  # a main config of each lesson
    assert len({each.python.rpartition(".")[0] for each in found.values()} - {"3.11"}) >= 2


@pytest.mark.medium
def test_a_python_is_found_by_its_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environments.find_python("3.99") is None
    shim = tmp_path / "python3.99"
    shim.write_text("#!/bin/sh\nexit 127\n")  # as pyenv's, where no such version is chosen
    shim.chmod(0o755)
    assert environments.find_python("3.99") is None
    version = ".".join(map(str, sys.version_info[:2]))
    (tmp_path / f"python{version}").symlink_to(sys.executable)
    found = environments.find_python(version)
    assert found is not None
    assert subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout.split()[1] == (
        ".".join(map(str, sys.version_info[:3]))
    )
