"""Roots for runs and configs that hold nothing else."""

from pathlib import Path

import pytest

from plcourse import catalog
from run_folders import HEADER


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    here = tmp_path / "here"  # its parent holds nothing else, least of all the runs of other tests
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("PLCOURSE_RUNS", raising=False)
    return here / "runs"


@pytest.fixture
def packaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configs folder with two configs, and an empty current folder."""
    root = tmp_path / "configs"
    (root / "ddp").mkdir(parents=True)
    (root / "ddp/two_processes.yaml").write_text(HEADER + "model: ImageClassifier\n")
    (root / "ddp/one_process.yaml").write_text(HEADER + "seed_everything: 1\n")
    monkeypatch.setattr(catalog, "configs_dir", lambda: root)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return root
