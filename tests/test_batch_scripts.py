"""The two batch scripts: as a person calls them, with a failure among the work, and a second time."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scripts import batch_evaluate, batch_predict

from plcourse import Run
from plcourse.errors import UserError
from support import Command, digits_config, write_config

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def run(forked: Command, runs: Path, tmp_path: Path) -> Run:
    config = digits_config(trainer__max_epochs=1, trainer__limit_train_batches=5)
    forked("fit", "-c", write_config(tmp_path / "small.yaml", config), "--then", "test")
    return Run.load("own/small")


def script(name: str, *arguments: object, cwd: Path, status: int = 0) -> str:
    command = [sys.executable, str(SCRIPTS / name), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=240)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_evaluations_end_in_one_table_whatever_fails(run: Run, tmp_path: Path) -> None:
    before = sorted(path for path in run.path.rglob("*"))
    arguments = ["own/small", "--data", "plain", "--data", "broken", "source=digitz", "--data", "few", "test_size=40"]
    printed = script("batch_evaluate.py", *arguments, cwd=tmp_path, status=1)
    assert "[3/3] own/small, few: finished" in printed
    table = pd.read_csv(tmp_path / "evaluations" / "table.csv").set_index("data")
    assert table.loc["plain", "test/accuracy"] == run.eval("test")["metrics"]["test/accuracy"]
    assert list(table["status"]) == ["finished", "failed", "finished"]
    assert "did you mean 'digits'" in table.loc["broken", "error"]
    assert table.loc["few", "samples"] == 40
    assert len(pd.read_parquet(tmp_path / "evaluations" / "table.parquet")) == 3
    assert (tmp_path / "evaluations" / "table.md").read_text().count("\n") == 5
    assert sorted(path for path in run.path.rglob("*")) == before  # the run itself is as it was
    printed = script("batch_evaluate.py", *arguments[:3], "--data", "few", "test_size=50", cwd=tmp_path)
    assert "1 of 2 were done before" in printed
    assert "[1/1] own/small, few: finished" in printed


@pytest.mark.slow
def test_predictions_of_many_files_have_one_manifest(run: Run, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    (photos / "deeper").mkdir(parents=True)
    draw = np.random.default_rng(0)
    names = [photos / f"{i}.png" for i in range(4)] + [photos / "deeper" / "5.png"]
    for name in names:
        Image.fromarray(draw.integers(0, 256, (8, 8), np.uint8)).save(name)
    (photos / "3.png").write_bytes(b"no image")
    arguments = ["photos", "--runs", "own/small", "--part_size", 2, "--jobs", 2]
    script("batch_predict.py", *arguments, cwd=tmp_path, status=1)
    manifest = json.loads((tmp_path / "predicted" / "manifest.json").read_text())
    assert [part["status"] for part in manifest["parts"]] == ["finished", "failed", "finished"]
    assert "3.png" in manifest["parts"][1]["error"]
    assert (manifest["inputs"], manifest["rows"]) == (5, 3)
    printed = script("batch_predict.py", *arguments, "--skip_unreadable", cwd=tmp_path)
    manifest = json.loads((tmp_path / "predicted" / "manifest.json").read_text())
    assert (manifest["rows"], manifest["left_out"]) == (4, 1)
    assert "4 rows of 5 images x 1 run(s), 1 unreadable left out" in printed
    parts = [pd.read_parquet(tmp_path / file) for part in manifest["parts"] for file in part["files"]]
    assert sorted(pd.concat(parts)["id"]) == sorted(str(name) for name in names if name.name != "3.png")
    assert (
        script("batch_predict.py", *arguments, "--skip_unreadable", cwd=tmp_path).count("3 of 3 were done before") == 1
    )


@pytest.mark.parametrize(
    ("data", "key"),
    [({"predict_paths": None}, "data.init_args.predict_paths"), ({"paths": None, "root": "x"}, "data.init_args.paths")],
)
def test_files_go_to_whatever_the_runs_data_module_calls_them(tmp_path: Path, data: dict[str, Any], key: str) -> None:
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "config.yaml").write_text(json.dumps({"data": {"class_path": "Own", "init_args": data}}))
    (cell,) = batch_predict.plan(["a.png"], [str(tmp_path)], 10, {}, tmp_path / "out")
    assert cell.overrides == {key: ["a.png"]}


def test_settings_of_data_keep_the_names_of_folders() -> None:
    words = [
        "x",
        "root=0017",
        "a.b=2024-01-05",
        "split_seed=7",
        "val_size=0.10",
        "resize=pad",
        "paths=[a, b]",
        "c.d=img[1]",
    ]
    assert batch_evaluate.read_data(words) == (
        "x",
        {
            "data.init_args.root": "0017",
            "a.b": "2024-01-05",
            "data.init_args.split_seed": 7,
            "data.init_args.val_size": 0.1,
            "data.init_args.resize": "pad",
            "data.init_args.paths": ["a", "b"],
            "c.d": "img[1]",
        },
    )


def test_inputs_are_found_as_by_the_data_modules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a[1].png", "a1.png", "b.jfif", "c.heic", ".hidden.png"):
        (tmp_path / name).touch()
    found = batch_predict.image_files([str(tmp_path / "a[1].png"), str(tmp_path)])
    assert found == [str(tmp_path / name) for name in ("a[1].png", "a1.png", "b.jfif")]
    assert "left out 1 file that Pillow does not read as an image: 1 .heic" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"inputs: '.*gone\.png' does not exist"):
        batch_predict.image_files([str(tmp_path / "gone.png")])


def test_a_run_that_takes_no_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    (tmp_path / "config.yaml").write_text(json.dumps({"data": {"class_path": "GaussianGrid", "init_args": {}}}))
    with pytest.raises(UserError, match="GaussianGrid takes no files to predict"):
        batch_predict.setting_of(str(tmp_path))


@pytest.mark.medium
@pytest.mark.parametrize("name", ["batch_evaluate.py", "batch_predict.py"])
def test_they_have_a_help(name: str, tmp_path: Path) -> None:
    assert "--output" in script(name, "--help", cwd=tmp_path)
