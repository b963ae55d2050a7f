"""Runs that are killed, appear under another host name and are resumed twice; variables that launchers leave behind."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest

from forking import Forker
from image_files import noise, save_image
from plcourse.cli import api
from plcourse.errors import UserError
from plcourse.runs.run import Run
from small_runs import EPOCH, small
from support import TWO_PROCESSES, Command, failing, write_config


def killed(forked: Command, tmp_path: Path, runs: Path) -> Run:
    """A run that was killed in its second epoch, on a machine that is now called something else."""
    config = failing(small(trainer__max_epochs=4), step=EPOCH + 2, how="kill", once=str(tmp_path / "killed"))
    config["trainer"]["callbacks"].append(
        {"class_path": "faulty.SlowBatches", "init_args": {"seconds": 0.05, "where": "step"}}
    )
    forked("fit", "-c", write_config(tmp_path / "own.yaml", config), "--trust", "faulty", status=-9)
    run = Run.load("own/own", runs)
    assert run.status == "killed"
    record = run.record
    record["hardware"]["hostname"] = "old-pod"
    (run.path / "run.json").write_text(json.dumps(record))
    return run


def test_of_two_resumes_at_once_under_another_host_name_one_is_refused(
    forked: Command, forker: Forker, tmp_path: Path, runs: Path
) -> None:
    run = killed(forked, tmp_path, runs)
    done: list[subprocess.CompletedProcess[str]] = []

    def resume(folder: Path) -> None:
        folder.mkdir()
        done.append(forker.run(folder, "fit", "--run", run.path, "--trust", "faulty"))

    threads = [threading.Thread(target=resume, args=(tmp_path / name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    finished, refused = sorted(done, key=lambda each: each.returncode)
    assert (finished.returncode, refused.returncode) == (0, 2), [each.stderr for each in done]
    (line,) = refused.stderr.splitlines()
    assert f"run {run.name} is still running" in line or f"another command has continued run {run.name}" in line
    assert run.status == "finished"
    rows = [(row["step"], row["metric"]) for row in run.metrics]
    assert len(rows) == len(set(rows))
    assert {step for step, _ in rows} >= set(range(4 * EPOCH))
    for file in run.path.glob("checkpoints/*.ckpt"):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert file.with_name(f"{file.name}.sha256").read_text() == f"{digest}\n"


@pytest.mark.slow
def test_a_run_of_another_machine_without_a_lock_takes_force(forked: Command, tmp_path: Path, runs: Path) -> None:
    run = killed(forked, tmp_path, runs)
    (run.path / ".lock").unlink()  # as a file system without locks has none
    before = (run.path / "run.json").read_text()
    line = forked("fit", "--run", run.path, "--trust", "faulty", status=2).stderr
    assert "on old-pod), as far as can be seen from here; if it is not, add --force" in line
    assert (run.path / "run.json").read_text() == before
    forked("fit", "--run", run.path, "--trust", "faulty", "--force")
    assert run.status == "finished"


def test_ranks_of_another_program_have_no_effect(plcourse: Command, tmp_path: Path, runs: Path) -> None:
    strays = {"RANK": "1", "LOCAL_RANK": "1", "SLURM_PROCID": "1"}
    done = plcourse("fit", "-c", write_config(tmp_path / "own.yaml", small()), "--then", "test", **strays)
    assert done.stdout.startswith("ignoring RANK=1, LOCAL_RANK=1, SLURM_PROCID=1 in the environment: ")
    run = Run.load("own/own", runs)
    assert run.status == "finished"
    assert run.config_path.is_file()
    assert {row["step"] for row in run.metrics} == set(range(2 * EPOCH))
    assert run.eval("test")["coverage"] == {"expected": 359, "seen": 359, "twice": 0}


@pytest.mark.parametrize("command", ["fit", pytest.param("sweep", marks=pytest.mark.slow)])
@pytest.mark.medium
def test_a_job_with_closed_streams(command: str, tmp_path: Path, runs: Path) -> None:
    """Ranks and workers, whose first files would get the numbers of the streams."""
    path = write_config(tmp_path / "own.yaml", small(**TWO_PROCESSES if command == "fit" else {}))
    job = f"fit -c {path} --then test" if command == "fit" else f"sweep --arms {path} --seeds 0"
    started = ["bash", "-c", f'exec "$0" -m plcourse {job} >&- 2>&- <&-', sys.executable]
    assert subprocess.run(started, check=False, cwd=tmp_path).returncode == 0
    (record,) = runs.rglob("run.json")
    run = Run(record.parent)
    assert run.status == "finished"
    assert {row["step"] for row in run.metrics} == set(range(run.record["steps"]))
    assert run.eval("test")["coverage"] == {"expected": 359, "seen": 359, "twice": 0}


@pytest.mark.medium
def test_the_checkpoint_of_another_run_under_a_name_of_this_one_is_refused(runs: Path) -> None:
    run, other = (api.run("fit", small(trainer__max_epochs=epochs)) for epochs in (2, 1))
    for name in ("last", "best"):
        for file in other.path.glob(f"checkpoints/{name}.ckpt*"):
            shutil.copy(file, run.path / "checkpoints" / file.name)
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    said = f"was written by another run, which was made at {other.record['created']}; put back the file of this run"
    for verb, flags in (("fit", ["--trainer.max_epochs=3"]), ("test", []), ("predict", []), ("export", [])):
        with pytest.raises(UserError, match=re.escape(said)):
            api.run_verb(verb, ["--run", str(run.path), *flags])
    assert {file: file.read_bytes() for file in before} == before
    again = api.run("fit", small(trainer__max_epochs=3), flags=["--ckpt_path", str(other.checkpoint("last"))])
    assert again.status == "finished", "another run may start from it"


@pytest.mark.slow
def test_a_bare_environment(plcourse: Command, tmp_path: Path, runs: Path) -> None:
    """As a service has it: no home, no folder for temporary files, no language, a terminal of seven columns."""
    nowhere = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), "/nonexistent")
    path = write_config(tmp_path / "größe.yaml", small())
    plcourse("fit", "-c", path, "--then", "test,predict", **nowhere, LANG="C", LC_ALL="C", COLUMNS="7")
    run = Run(next(runs.rglob("run.json")).parent)
    assert run.status == "finished"
    assert run.eval("test")["coverage"] == {"expected": 359, "seen": 359, "twice": 0}


@pytest.mark.slow
def test_three_samples_on_four_processes(forked: Command, tmp_path: Path, runs: Path) -> None:
    for number, part in enumerate(["test"] * 3 + ["val"] * 3 + ["train"] * 8):
        save_image(tmp_path / "photos" / part / "ab"[number % 2] / f"{number}.png", noise(8, 8, 1, number))
    data = {"source": "image_folder", "root": str(tmp_path / "photos"), "batch_size": 1}
    config = small(**{**TWO_PROCESSES, "trainer__devices": 4})
    config["data"]["init_args"] = data
    forked("fit", "-c", write_config(tmp_path / "own.yaml", config), "--then", "test,predict")
    run = Run.load("own/own", runs)
    assert run.eval("test")["coverage"] == {"expected": 3, "seen": 3, "twice": 0}
    rows = pd.concat(pd.read_parquet(file) for file in run.predictions)
    assert sorted(rows["id"]) == ["test/a/0.png", "test/a/2.png", "test/b/1.png"]
