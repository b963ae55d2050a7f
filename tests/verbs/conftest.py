"""Commands as a user types them, run in this process, and a small suite for them."""

import re
from typing import Any

import pytest

from plcourse import catalog
from plcourse.__main__ import main
from small_suite import HEADER, TEXT


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """A configs folder with three configs, and an empty current folder."""
    root = tmp_path / "configs"
    (root / "ddp").mkdir(parents=True)
    (root / "gan").mkdir()
    (root / "ddp/two_processes.yaml").write_bytes(TEXT.encode())
    (root / "ddp/broken.yaml").write_text("model: x\n")
    (root / "gan/color.yaml").write_text(HEADER.replace("nothing", "gpu, a file").replace("fit, test", "test"))
    monkeypatch.setattr(catalog, "configs_dir", lambda: root)
    monkeypatch.setattr(catalog, "PACKAGE", tmp_path / "package")
    monkeypatch.delenv("PLCOURSE_RUNS", raising=False)
    monkeypatch.delenv("PLCOURSE_DEBUG", raising=False)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return root


@pytest.fixture
def typed(capfdbinary):
    """Runs a command line; gives its status, output and errors."""

    def run(*argv: object) -> tuple[int, str, str]:
        status: Any = 0
        try:
            assert main([*map(str, argv)]) is None
        except SystemExit as error:
            status = error.code
            assert status != 0
        out, err = capfdbinary.readouterr()
        return status, out.decode(), err.decode()

    return run


@pytest.fixture
def refused(typed):
    """Runs a command line that is a bad request; gives its one line."""

    def run(*argv: object) -> str:
        status, out, err = typed(*argv)
        assert (status, out) == (2, ""), err
        assert re.fullmatch(r"plcourse: error: [^\n]+\n", err)
        return err

    return run
