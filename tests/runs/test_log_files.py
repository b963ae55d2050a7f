"""A run that resumes adds to the files of Lightning's loggers, and ends with those of a run that was never stopped."""

from pathlib import Path
from typing import Any

import pytest

import plcourse
from plcourse.cli import run_verb
from plcourse.errors import UserError
from plcourse.runs.run import Run
from small_runs import EPOCH, small
from support import Command, failing, write_config

pytestmark = pytest.mark.medium


def logging(folder: Path, kind: str = "CSVLogger", **arguments: Any) -> dict[str, Any]:
    return {"class_path": kind, "init_args": {"save_dir": str(folder), "name": "log", **arguments}}


def config(logger: dict[str, Any], **changes: Any) -> dict[str, Any]:
    tree = small(**changes)
    tree["trainer"]["logger"] = logger
    return tree


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The table of three epochs in one go."""
    folder = tmp_path_factory.mktemp("whole")
    plcourse.run("fit", config(logging(folder), trainer__max_epochs=3), runs_root=folder / "runs")
    return (folder / "log" / "version_0" / "metrics.csv").read_text()


@pytest.mark.parametrize("version", [{}, {"version": 0}])
def test_a_longer_run_keeps_its_rows(version: dict[str, Any], whole: str, tmp_path: Path, runs: Path) -> None:
    run = plcourse.run("fit", config(logging(tmp_path / "logs", **version)))
    run_verb("fit", ["--run", str(run.path), "--trainer.max_epochs", "3"])
    assert [path.name for path in (tmp_path / "logs" / "log").iterdir()] == ["version_0"]
    assert sorted(path.name for path in (tmp_path / "logs/log/version_0").iterdir()) == ["metrics.csv"]
    assert (tmp_path / "logs" / "log" / "version_0" / "metrics.csv").read_text() == whole


def test_rows_newer_than_the_checkpoint_are_logged_anew(whole: str, tmp_path: Path, runs: Path) -> None:
    tree = failing(
        config(logging(tmp_path), trainer__max_epochs=3), step=EPOCH + 4, how="nan", once=str(tmp_path / "x")
    )
    with pytest.raises(UserError, match="the loss is nan"):
        plcourse.run("fit", tree, trust=["faulty"])
    run_verb("fit", ["--run", str(Run.load("own/inline/latest").path), "--trust", "faulty"])
    assert (tmp_path / "log" / "version_0" / "metrics.csv").read_text() == whole


@pytest.mark.slow
def test_a_killed_run_keeps_its_rows(whole: str, forked: Command, tmp_path: Path, runs: Path) -> None:
    tree = failing(
        config(logging(tmp_path), trainer__max_epochs=3), step=EPOCH + 4, how="kill", once=str(tmp_path / "x")
    )
    allowed = ("--trust", "faulty", "--allow_writes", tmp_path)
    forked("fit", "-c", write_config(tmp_path / "cut.yaml", tree), *allowed, status=-9)
    forked("fit", "--run", runs / "own" / "cut" / "latest", "--trust", "faulty")  # the folder is in the signed record
    assert (tmp_path / "log" / "version_0" / "metrics.csv").read_text() == whole


def test_curves_go_on_in_their_folder(tmp_path: Path, runs: Path) -> None:
    run = plcourse.run("fit", config(logging(tmp_path, "TensorBoardLogger")))
    run_verb("fit", ["--run", str(run.path), "--trainer.max_epochs", "3"])
    assert [path.name for path in (tmp_path / "log").iterdir()] == ["version_0"]
    assert len(list((tmp_path / "log" / "version_0").glob("events*"))) == 2
