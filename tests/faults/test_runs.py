"""Whole commands whose disk fills, whose folder is locked or removed, whose checkpoint is another's."""

import io
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from browser import PROGRAM, Browser
from faulty import fill
from plcourse.__main__ import main
from plcourse.curriculum.scorers import ReferenceLoss
from plcourse.errors import UserError
from plcourse.evaluation.members import find_checkpoints, load_members
from plcourse.files import LOCK, hold, release
from plcourse.runs.run import Run
from plcourse.training.checkpoint import load
from support import assert_same_end, digits_config, write_config

Refused = Callable[..., str]
EPOCHS = 2


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """The one line with which a command ends."""

    def run(status: int, *arguments: Any) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        said = capsys.readouterr().err
        (line,) = [line for line in said.splitlines() if line.startswith("plcourse: error: ")]
        assert ended.value.code == status, said
        assert said.endswith(f"{line}\n")
        assert "Traceback" not in said
        return line

    return run


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An undisturbed fit."""
    folder = tmp_path_factory.mktemp("fitted")
    config = write_config(folder / "fitted.yaml", digits_config(trainer__max_epochs=EPOCHS))
    main(["fit", "-c", str(config), "--runs_root", str(folder / "runs")])
    return Run.load("own/fitted", folder / "runs")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four MiB of its own."""
    (folder := tmp_path / "disk").mkdir()
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip(f"this user may not mount a file system: {done.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def lockable(tmp_path: Path) -> Iterator[Path]:
    """A folder whose content can be locked against root too."""
    (folder := tmp_path / "lockable").mkdir()
    try:
        done = subprocess.run(["chattr", "+i", str(folder)], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no chattr")
    if done.returncode:
        pytest.skip(f"this user or file system has no immutable folders: {done.stderr.decode().strip()}")
    subprocess.run(["chattr", "-i", str(folder)], check=True)
    yield folder
    subprocess.run(["chattr", "-R", "-i", str(folder)], capture_output=True)  # which cannot read the link `latest`


def broken(how: str, **changes: Any) -> dict[str, Any]:
    """The config of `fitted`, whose folder is broken between two checkpoints."""
    config = digits_config(trainer__max_epochs=EPOCHS, **changes)
    config["trainer"]["callbacks"].append({"class_path": "faulty.BreakFolder", "init_args": {"step": 10, "how": how}})
    return config


def assert_intact(run: Run) -> None:
    """Every checkpoint loads with its hash verified, and nothing half-written lies there."""
    files = sorted(run.path.rglob("*.ckpt"))
    assert {file.name for file in files} >= {"best.ckpt", "last.ckpt"}
    for file in files:
        assert file.with_name(f"{file.name}.sha256").is_file()
        assert load(file)["global_step"] == 7
    assert list(run.path.rglob(".*.tmp")) == []


@pytest.mark.slow
def test_a_disk_that_fills_under_a_fit(small_disk: Path, tmp_path: Path, fitted: Run, refused: Refused) -> None:
    root = small_disk / "runs"
    config = write_config(tmp_path / "full.yaml", broken("fill"))
    line = refused(1, "fit", "-c", config, "--trust", "faulty", "--runs_root", root)
    run = Run.load("own/full", root)
    assert f"cannot write the checkpoint {run.path}" in line
    assert "No space left on device" in line
    assert_intact(run)
    assert run.record["status"] == "running"  # nothing could be recorded; without its process it counts as killed
    (run.path.parent / "filler").unlink()
    without = digits_config(trainer__max_epochs=EPOCHS)["trainer"]["callbacks"]
    main(["fit", "--run", str(run.path), "--ckpt_path", "last", "--trust", "faulty", f"--trainer.callbacks={without}"])
    assert run.status == "finished"
    assert_same_end(run.path, fitted.path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "written"), [("test", "eval/test.json"), ("predict", "predictions/part-00000.parquet")]
)
def test_a_disk_that_fills_under_an_evaluation(
    verb: str, written: str, small_disk: Path, fitted: Run, refused: Refused
) -> None:
    run = Run(shutil.copytree(fitted.path, small_disk / "run"))
    main([verb, "--run", str(run.path)])
    before = (run.path / written).read_bytes()
    fill(small_disk)
    line = refused(1, verb, "--run", run.path)
    assert "cannot write" in line
    assert str(run.path) in line
    assert "No space left on device" in line
    assert (run.path / written).read_bytes() == before
    assert list(run.path.rglob(".*tmp")) == []


@pytest.mark.slow
def test_a_folder_that_loses_its_write_permission_under_a_fit(
    lockable: Path, tmp_path: Path, fitted: Run, refused: Refused
) -> None:
    config = write_config(tmp_path / "locked.yaml", broken("lock"))
    line = refused(1, "fit", "-c", config, "--trust", "faulty", "--runs_root", lockable)
    run = Run.load("own/locked", lockable)
    assert f"cannot write '{run.path}/tensorboard/" in line
    assert "Operation not permitted" in line
    assert_intact(run)
    before = (run.path / "metrics.csv").read_bytes()
    line = refused(1, "fit", "--run", run.path, "--ckpt_path", "last", "--trust", "faulty")
    assert f"cannot write '{run.path}/.lock': Operation not permitted" in line
    assert (run.path / "metrics.csv").read_bytes() == before
    subprocess.run(["chattr", "-R", "-i", str(lockable)], capture_output=True)
    without = digits_config(trainer__max_epochs=EPOCHS)["trainer"]["callbacks"]
    main(["fit", "--run", str(run.path), "--ckpt_path", "last", "--trust", "faulty", f"--trainer.callbacks={without}"])
    assert_same_end(run.path, fitted.path)


@pytest.mark.slow
@pytest.mark.parametrize("logger", [True, False])
def test_a_run_folder_removed_under_the_run(tmp_path: Path, runs: Path, refused: Refused, logger: bool) -> None:
    config = write_config(tmp_path / "gone.yaml", broken("delete", trainer__logger=logger))
    line = refused(1, "fit", "-c", config, "--trust", "faulty")
    assert "was removed or renamed while the run wrote into it" in line
    assert str(runs / "own" / "gone") in line


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict", "export"])
def test_a_checkpoint_of_another_model(verb: str, tmp_path: Path, runs: Path, fitted: Run, refused: Refused) -> None:
    network = {"class_path": "ResNet", "init_args": {"widths": [8]}}
    config = write_config(tmp_path / "other.yaml", digits_config(model__init_args__network=network))
    checkpoint = fitted.checkpoint("last")
    before = {file: file.read_bytes() for file in fitted.path.rglob("*") if file.is_file()}
    line = refused(2, verb, "-c", config, "--ckpt_path", checkpoint)
    assert f"{checkpoint} was written by another model than ImageClassifier" in line
    assert {file: file.read_bytes() for file in before} == before


def damaged(checkpoint: Path, folder: Path, how: str) -> Path:
    """A copy with its checksum, cut short or with one bit flipped."""
    content = bytearray(checkpoint.read_bytes())
    if how == "truncated":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 1
    (copy := folder / "damaged.ckpt").write_bytes(content)
    (folder / "damaged.ckpt.sha256").write_text(checkpoint.with_name(f"{checkpoint.name}.sha256").read_text())
    return copy


@pytest.mark.slow
@pytest.mark.parametrize("how", ["truncated", "flipped"])
def test_a_damaged_checkpoint_among_the_members_or_as_a_reference(how: str, tmp_path: Path, fitted: Run) -> None:
    copy = damaged(fitted.checkpoint("best"), tmp_path, how)
    members = find_checkpoints([str(fitted.path), str(copy)])
    network = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match=r"damaged.ckpt is damaged: its SHA-256"):
        load_members(network, members[1:])
    with pytest.raises(UserError, match="does not fit the configured network, Linear"):
        load_members(network, members[:1])
    with pytest.raises(UserError, match=r"damaged.ckpt is damaged: its SHA-256"):
        ReferenceLoss(str(copy))(None)  # pyright: ignore[reportArgumentType]  (the file is read before any sample)


@pytest.mark.slow
def test_two_predictions_into_the_folder_of_one_run(fitted: Run, refused: Refused) -> None:
    main(["predict", "--run", str(fitted.path)])
    (file,) = fitted.predictions
    before = file.read_bytes()
    handle = hold(file.parent, "predictions")
    try:
        line = refused(2, "predict", "--run", fitted.path)
    finally:
        release(handle, file.parent / LOCK)
    assert f"another process is writing predictions into '{file.parent}'" in line
    assert file.read_bytes() == before
    main(["predict", "--run", str(fitted.path)])
    assert pd.read_parquet(file).equals(pd.read_parquet(io.BytesIO(before)))


HOSTILE = (
    '"><svg onload=window.pwned=1>',
    "<img src=x onerror=window.pwned=2>",
    "<script>window.pwned=3</script>",
    "'-window.pwned=4-' onmouseover=window.pwned=5",
)


@pytest.mark.slow
@pytest.mark.skipif(PROGRAM is None, reason="needs chromium")
@pytest.mark.parametrize("kind", ["images", "reviews"])
def test_hostile_text_runs_no_script_in_a_report(
    kind: str, tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class names, file names and reviews from fit and test to the page, opened in a browser."""
    monkeypatch.chdir(tmp_path)
    data: dict[str, Any] = {"batch_size": 16, "val_size": 8, "test_size": 16}
    features = 64
    if kind == "images":
        rng = np.random.default_rng(0)
        for name in (each.replace("/", "") for each in HOSTILE):  # which no name of a file holds
            (folder := tmp_path / "photos" / name).mkdir(parents=True)
            for number in range(12):
                Image.fromarray(rng.integers(0, 255, (8, 8), np.uint8)).save(folder / f"{number}{name}.png")
        data |= {"source": "image_folder", "root": "photos"}
    else:
        rows = [
            {"id": f"{number}{name}", "text": f"{name} {number + 10}", "label": name, "group": name}
            for name in HOSTILE
            for number in range(12)
        ]
        pd.DataFrame(rows).to_csv("reviews.csv", index=False)
        data |= {"source": "table", "root": "reviews.csv", "text_column": "text", "id_column": "id"}
        features = 1024
    network = {"class_path": "MLP", "init_args": {"in_features": features, "num_classes": 4}}
    config = digits_config(
        trainer__max_epochs=1,
        trainer__test_loop={"class_path": "DiagnosticTestLoop"},
        model={"class_path": "Classifier", "init_args": {"network": network, "num_classes": 4}},
        data={"class_path": "EvaluationData", "init_args": data},
    )
    main(["fit", "-c", str(write_config(tmp_path / "hostile.yaml", config)), "--then", "test"])
    run = Run.load("own/hostile", runs)
    main(["report", str(run.path)])
    page = run.path / "report.html"
    with Browser() as browser:
        browser.open(page, 1280, "light")
        browser.value("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert browser.value("typeof window.pwned") == "undefined"
        assert browser.value("document.querySelectorAll('script, svg[onload], img[onerror]').length") == 0
        shown = browser.value("document.body.textContent")
        assert browser.requests() == [page.resolve().as_uri()]
        assert browser.complaints() == []
    assert all(name.replace("/", "")[:20] in shown for name in HOSTILE)
