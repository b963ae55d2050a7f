"""What a config, a run folder or a repository from somebody else may not do: run code, or touch the user's files."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import CSVLogger

import plcourse
from plcourse import Run
from plcourse.__main__ import main
from plcourse.cli import run_verb
from plcourse.errors import UserError
from plcourse.runs import log_files
from plcourse.runs.environment import environment
from plcourse.training.checkpoint import AtomicCheckpointIO
from plcourse.verbs.report.verb import report
from plcourse.verbs.sweep.sweep import Sweep
from small_runs import small
from support import HELPERS, changed, write_config

LIGHTNING = "pytorch_lightning."
CSV, TENSORBOARD = f"{LIGHTNING}loggers.CSVLogger", f"{LIGHTNING}loggers.TensorBoardLogger"
CHECKPOINT = f"{LIGHTNING}callbacks.ModelCheckpoint"
PROFILER = f"{LIGHTNING}profilers.AdvancedProfiler"


def hostile(outside: Path) -> dict[str, dict[str, Any]]:
    """Configs that try to write outside, by what they use; keys hold ``__`` for the dots."""
    logger = {"class_path": CSV, "init_args": {"save_dir": str(outside / "csv"), "name": "name", "version": "v"}}
    profiler = {"class_path": PROFILER, "init_args": {"dirpath": str(outside), "filename": "profile"}}
    suffix = {"class_path": TENSORBOARD, "init_args": {"save_dir": "x"}, "dict_kwargs": {"filename_suffix": "/../../e"}}

    def callback(path: str, **arguments: Any) -> dict[str, Any]:
        return {"trainer__callbacks": [{"class_path": path, "init_args": arguments}]}

    return {
        "a table": {"trainer__logger": logger},
        "a table in a list": {"trainer__logger": [logger]},
        "curves": {"trainer__logger": {**logger, "class_path": TENSORBOARD}},
        "a version": {
            "trainer__logger": {"class_path": CSV, "init_args": {"save_dir": "x", "version": "../../../../e"}}
        },
        "a suffix": {"trainer__logger": suffix},
        "a home": {"trainer__logger": {"class_path": TENSORBOARD, "init_args": {"save_dir": "~/logs"}}},
        "a variable": {"trainer__logger": {"class_path": TENSORBOARD, "init_args": {"save_dir": "$OUTSIDE/logs"}}},
        "a URL": {"trainer__logger": {"class_path": CSV, "init_args": {"save_dir": f"file://{outside}/csv"}}},
        "a checkpoint": callback(CHECKPOINT, dirpath=str(outside)),
        "the name of a checkpoint": callback(CHECKPOINT, filename="../../../../../e"),
        "a filled field": callback(CHECKPOINT, filename="{epoch:/>3}", auto_insert_metric_name=False),
        "the suite's checkpoint": callback("RunCheckpoint", dirpath=str(outside)),
        "after an error": callback(f"{LIGHTNING}callbacks.OnExceptionCheckpoint", dirpath=str(outside)),
        "a profile": {"trainer__profiler": profiler},
        "the name of a profile": {
            "trainer__profiler": {"class_path": PROFILER, "init_args": {"filename": "../../../../e"}}
        },
        "predictions": {
            "trainer__predict_loop": {"class_path": "StreamingPredictLoop", "init_args": {"output_dir": str(outside)}}
        },
    }


_WATCHED = """
import os, sys
from pathlib import Path
import plcourse.cli.course_cli
from plcourse.__main__ import main

inside, seen = [os.path.realpath(each) for each in sys.argv[2].split(":")], set()
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod")

def watch(event, arguments):
    if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & WRITES):
        return
    if event == "open" or event in CHANGES:
        places = {"os.rename": arguments[:2], "os.link": arguments[:2], "os.symlink": arguments[1:2]}
        for path in places.get(event, arguments[:1]):
            if isinstance(path, str | bytes):
                real = os.path.realpath(os.fsdecode(path))
                if not any(real == each or real.startswith(each + "/") for each in ["/dev", *inside]):
                    seen.add((event, real))

sys.addaudithook(watch)
for config in sys.argv[3:]:
    try:
        main(["fit", "-c", config, "--then", "predict"])
        print(f"{Path(config).stem}: 0")
    except SystemExit as end:
        print(f"{Path(config).stem}: {end.code}")
Path(sys.argv[1]).write_text(repr(sorted(seen)))
"""


@pytest.mark.medium
def test_the_worst_configs_write_nothing_outside(tmp_path: Path, runs: Path, user_key: Path) -> None:
    """One process carries them all out; an audit hook sees every file that Python code changes."""
    (outside := tmp_path / "outside").mkdir()
    (outside / "csv" / "name" / "v").mkdir(parents=True)
    (outside / "csv" / "name" / "v" / "metrics.csv").write_text("precious")
    worst = hostile(outside)
    paths = [write_config(tmp_path / f"{name}.yaml", changed(small(), each)) for name, each in worst.items()]
    inside = {"trainer__logger": {"class_path": CSV, "init_args": {"save_dir": "logs", "name": "n", "version": "v"}}}
    inside |= {"trainer__profiler": {"class_path": PROFILER, "init_args": {"dirpath": "profiles", "filename": "p"}}}
    paths.append(write_config(tmp_path / "inside.yaml", changed(small(), inside)))
    command = [sys.executable, "-c", _WATCHED, str(tmp_path / "seen"), f"{runs}:{tmp_path / 'seen'}", *map(str, paths)]
    environment = {
        "PLCOURSE_RUNS": str(runs),
        "HOME": str(outside),
        "OUTSIDE": str(outside),
        "PYTHONPATH": str(HELPERS),
    }

    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment, "OMP_NUM_THREADS": "1"}, cwd=tmp_path
    )
    statuses = dict(re.findall(r"^([\w ']+): (\d)$", done.stdout, re.MULTILINE))
    assert statuses == {**dict.fromkeys(worst, "2"), "inside": "0"}, done.stdout + done.stderr
    refusals = [line for line in done.stderr.splitlines() if "outside its folder" in line or "out of the run" in line]
    assert len(refusals) == len(worst)
    assert all(
        re.match(rf"plcourse: error: .*{re.escape(path.name)}:\d+: trainer", line)
        for path, line in zip(paths, refusals, strict=False)
    ), refusals
    assert (tmp_path / "seen").read_text() == "[]"
    left = sorted(path.relative_to(outside).as_posix() for path in outside.rglob("*"))
    left = [path for path in left if not path.startswith(".cache")]  # a library's, in the home folder
    assert left == ["csv", "csv/name", "csv/name/v", "csv/name/v/metrics.csv"]
    assert (outside / "csv" / "name" / "v" / "metrics.csv").read_text() == "precious"
    (run,) = (runs / "own" / "inside").glob("2*")
    assert len((run / "logs" / "n" / "v" / "metrics.csv").read_text().splitlines()) > 5
    assert list((run / "profiles").glob("*"))


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that has trained for an epoch."""
    return plcourse.run("fit", small(trainer__max_epochs=1), runs_root=tmp_path_factory.mktemp("foreign")).path


LINKED = {
    "eval": lambda run: run_verb("test", ["--run", run]),
    "predictions": lambda run: run_verb("predict", ["--run", run]),
    "checkpoints/more": lambda run: run_verb("fit", ["--run", run, "--trainer.max_epochs", "2"]),
    "export": lambda run: run_verb("export", ["--run", run]),
    "plots": lambda run: report([run]),
}


@pytest.mark.medium
@pytest.mark.parametrize("name", LINKED)
def test_a_link_in_a_foreign_run_is_followed_by_no_verb(foreign: Path, tmp_path: Path, name: str) -> None:
    (victim := tmp_path / "victim").mkdir()
    for file in ("part-00007.parquet", "_manifest.json", "test.json", "private.png"):
        (victim / file).write_text("precious")
    run = tmp_path / "gift"
    subprocess.run(["cp", "-r", str(foreign), str(run)], check=True)
    (run / name).symlink_to(victim)
    with pytest.raises(UserError, match=rf"'{run / name}' is a link to {victim}, outside the run; remove the link"):
        LINKED[name](str(run))
    assert {path.name: path.read_text() for path in victim.iterdir()} == dict.fromkeys(
        ("part-00007.parquet", "_manifest.json", "test.json", "private.png"), "precious"
    )
    assert not (run / "report.html").exists()


def test_a_record_cannot_move_a_table(tmp_path: Path) -> None:
    (victim := tmp_path / "logs" / "metrics.csv").parent.mkdir()
    victim.write_text("step,x\n0,1\n")
    for version in ("..", "../../logs", str(victim.parent), "~"):
        run = Run.create("own/x", tmp_path / "runs", {"logger_versions": [version]})
        logger = CSVLogger(tmp_path / "runs" / "a", name="b")
        log_files.resume([logger], run, None)
        assert logger._version is None
    assert victim.read_text() == "step,x\n0,1\n"


def test_a_checkpoint_cannot_have_a_file_removed(tmp_path: Path) -> None:
    (folder := tmp_path / "checkpoints").mkdir()
    (victim := tmp_path / "precious").touch()
    with pytest.raises(UserError, match="is not in its folder; it is not removed"):
        AtomicCheckpointIO().remove_checkpoint(folder / ".." / "precious")
    assert victim.exists()
    AtomicCheckpointIO().remove_checkpoint(victim)
    assert not victim.exists()


@pytest.mark.parametrize("run", ["../../x", "/home/x", "cells/../../x", "~/x"])
def test_a_sweep_cannot_list_a_run_elsewhere(tmp_path: Path, run: str) -> None:
    cell = {"arm": "a", "seed": 0, "grid": {}, "status": "pending", "run": run}
    (tmp_path / "sweep.json").write_text(json.dumps({"cells": [cell]}))
    with pytest.raises(UserError, match=r"lists the run .* not in the folder of the sweep"):
        Sweep(tmp_path, tmp_path)


def test_a_sweep_from_elsewhere_trusts_nothing(tmp_path: Path) -> None:
    forged = {"permissions": ["--trust=evil"], "signature": "0" * 64}
    for given in ({"trust": ["evil"]}, {"permissions": ["--trust=evil"]}, forged):
        (tmp_path / "sweep.json").write_text(json.dumps({"cells": [], **given}))
        assert Sweep(tmp_path, tmp_path).permissions == []


BOMB = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30))])


@pytest.mark.medium
@pytest.mark.parametrize("place", ["a flag", "a config", "deep"])
def test_a_bomb_in_a_file_that_a_config_names_ends_at_once(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    bomb = tmp_path / "bomb.yaml"
    bomb.write_text("[" * 50_000 if place == "deep" else BOMB)
    network = {} if place == "a flag" else {"model__init_args__network": str(bomb)}
    path = write_config(tmp_path / "sent.yaml", changed(small(), network))
    with pytest.raises(SystemExit) as end:
        main(["fit", "-c", str(path), *(["--model", str(bomb)] if place == "a flag" else [])])
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert ("levels deep" if place == "deep" else "aliases expand to") in error
    assert not runs.exists()


@pytest.mark.medium
def test_a_config_cannot_name_a_folder_as_checkpoint(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gift").mkdir()
    (tmp_path / "gift" / ".metadata").write_text("a pickle")  # torch's sharded checkpoints
    path = write_config(tmp_path / "sent.yaml", {**small(), "ckpt_path": str(tmp_path / "gift")})
    with pytest.raises(SystemExit):
        main(["fit", "-c", str(path)])
    assert "no checkpoint" in capsys.readouterr().err


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always", *arguments]
    return subprocess.run(command, check=True, cwd=folder, capture_output=True, text=True).stdout.strip()


def filtered(folder: Path, key: str) -> None:
    git(folder, "config", f"filter.e vil.{key}", "touch started; cat")
    git(folder, "config", "filter.e vil.required", "true")
    (folder / ".git" / "info" / "attributes").write_text('*.txt filter="e vil"\n*.md filter=plain\n')
    git(folder, "config", f"filter.plain.{key}", "touch started; cat")


def hooked(folder: Path) -> None:
    (hook := folder / ".git" / "hooks" / "post-index-change").write_text("#!/bin/sh\ntouch started\n")
    hook.chmod(0o755)


def partial(folder: Path) -> None:
    for key, value in (
        ("core.repositoryformatversion", "1"),
        ("extensions.partialClone", "origin"),
        ("remote.origin.promisor", "true"),
        ("remote.origin.url", "ext::sh -c touch% started"),
        ("protocol.ext.allow", "always"),
    ):
        git(folder, "config", key, value)
    tree = git(folder, "rev-parse", "HEAD^{tree}")
    (folder / ".git" / "objects" / tree[:2] / tree[2:]).unlink()


PROGRAMS: dict[str, Callable[[Path], object]] = {
    "a filter": lambda folder: filtered(folder, "clean"),
    "a filter process": lambda folder: filtered(folder, "process"),
    "a file system monitor": lambda folder: git(folder, "config", "core.fsmonitor", "touch started; true"),
    "a hook": hooked,
    "a partial clone": partial,
}


@pytest.mark.medium
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_repository_starts_no_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "-q")
    for file in ("a.txt", "b.md"):
        (tmp_path / file).write_text("text")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    PROGRAMS[name](tmp_path)
    started = tmp_path / "started"
    for file in ("a.txt", "b.md"):
        os.utime(tmp_path / file, (1, 1))  # git must read the files to tell whether they have changed
    assert len(environment()["git"]["commit"]) == 40  # pyright: ignore[reportOptionalSubscript]
    assert not started.exists()
    subprocess.run(["git", "status"], capture_output=True, cwd=tmp_path)
    assert started.exists(), "otherwise this repository would be harmless and the test empty"
