"""Signals end a run with the status that shells expect and a checkpoint that resumes to the same end."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from forking import Forker
from plcourse.training.checkpoint import load
from support import TWO_PROCESSES, Command, assert_same_end, digits_config, failing, write_config


@pytest.fixture(scope="module", params=[1, 2])
def whole(request: pytest.FixtureRequest, forker: Forker, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The changes that give a config one or two processes, and a run of it that was not interrupted."""
    changes, folder = TWO_PROCESSES if request.param == 2 else {}, tmp_path_factory.mktemp("whole")
    config = write_config(folder / "whole.yaml", digits_config(**changes))
    done = forker.run(folder, "fit", "-c", config, "--runs_root", folder / "runs")
    assert done.returncode == 0, done.stderr
    return changes, folder / "runs" / "own" / "whole" / "latest"


@pytest.mark.parametrize(("how", "status"), [("sigint", 130), ("sigterm", 143)])
def test_a_signal_ends_with_a_checkpoint(
    whole: tuple[dict[str, Any], Path], forked: Command, tmp_path: Path, runs: Path, how: str, status: int
) -> None:
    changes, reference = whole
    config = failing(digits_config(**changes), step=31, how=how, once=str(tmp_path / "sent"))
    forked("fit", "-c", write_config(tmp_path / "cut.yaml", config), "--trust", "faulty", status=status)
    latest = runs / "own" / "cut" / "latest"
    assert json.loads((latest / "run.json").read_text())["status"] == "interrupted"
    forked("fit", "-c", tmp_path / "cut.yaml", "--ckpt_path", "last", "--trust", "faulty")
    assert json.loads((latest / "run.json").read_text())["status"] == "finished"
    assert_same_end(latest, reference)


@pytest.mark.medium
def test_a_second_signal_ends_at_once(tmp_path: Path, runs: Path) -> None:
    config = digits_config(trainer__max_epochs=100_000)
    path = write_config(tmp_path / "long.yaml", config)
    command = [sys.executable, "-m", "plcourse", "fit", "-c", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        next(line for line in process.stdout if line.startswith("epoch"))
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert "interrupted by SIGINT" in process.stderr.read()
    assert process.returncode == 130
    assert json.loads((runs / "own" / "long" / "latest" / "run.json").read_text())["status"] == "interrupted"


@pytest.mark.parametrize(
    ("deaf", "recorded"), [(False, "interrupted"), pytest.param(True, "running", marks=pytest.mark.slow)]
)
def test_a_step_that_does_not_end_is_abandoned(
    forked: Command, tmp_path: Path, runs: Path, deaf: bool, recorded: str
) -> None:
    config = digits_config()
    stall = {"class_path": "faulty.StallWhenAsked", "init_args": {"step": 10, "deaf": deaf}}
    config["trainer"]["callbacks"].append(stall)
    done = forked("fit", "-c", write_config(tmp_path / "x.yaml", config), "--trust", "faulty", status=143, timeout=60)
    assert "the step did not end within 1 s of SIGTERM and is abandoned; the last checkpoint is intact" in done.stdout
    latest = runs / "own" / "x" / "latest"
    assert json.loads((latest / "run.json").read_text())["status"] == recorded
    assert load(latest / "checkpoints" / "last.ckpt")["global_step"] == 7
