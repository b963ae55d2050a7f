"""Lesson 18 as a user types it: a folder of one's own, averages, killed runs, two processes, mistakes."""

import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from plcourse import Run
from plcourse.__main__ import main
from support import TWO_PROCESSES, Command, assert_equal, kill_at_step, write_config
from vision_configs import averaged, folder_config, vision_config

STEPS_PER_EPOCH = 10  # 400 training samples in batches of 40


def own_folder_config(root: Path) -> dict[str, Any]:
    """As many stages as the real configs have."""
    return folder_config(root, "Overlays", "MaskWriter", widths=(8, 8, 8, 8), batch_size=6)


@pytest.mark.slow
def test_a_users_folder_needs_another_data_block_only(
    mask_folder: Callable[..., Path], runs: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path / "mine.yaml", own_folder_config(mask_folder()))
    main(["fit", "-c", str(config), "--then", "test,predict,export", "--format", "onnx,torch_export"])
    run = Run(runs / "own" / "mine" / "latest")
    scores = run.eval("test")["metrics"]
    assert {"test/accuracy_bar", "test/iou_2", "test/boundary_f1", "test/foreground_iou"} <= scores.keys()
    assert {path.name for path in (run.path / "plots").glob("*.png")} == {"test-best.png", "test-worst.png"}
    rows = json.loads((run.path / "export" / "verification.json").read_text())["rows"]
    assert {name: row["status"] for name, row in rows.items() if name != "eager"} == {
        "onnx": "verified",
        "torch_export": "verified",
    }
    with suppress(SystemExit):  # decisions of so short a training are close, and int8 may miss its tolerance
        main(["export", "--run", str(run.path), "--format", "onnx_int8"])
    rows = json.loads((run.path / "export" / "verification.json").read_text())["rows"]
    assert rows["onnx_int8"]["status"] != "not exported"
    weights = torch.load(run.checkpoint("last"), weights_only=True)["state_dict"]
    assert len(weights["network.class_head.bias"]) == len(weights["network.mask_head.bias"]) == 3


@pytest.mark.medium
def test_masks_have_the_size_of_their_inputs_without_the_training_data(
    mask_folder: Callable[..., Path], runs: Path, tmp_path: Path
) -> None:
    root = mask_folder()
    config = write_config(tmp_path / "mine.yaml", own_folder_config(root))
    main(["fit", "-c", str(config)])
    new = mask_folder("new", 4, ((24, 24), (31, 50)))
    root.rename(tmp_path / "gone")
    main(["predict", "--run", str(runs / "own" / "mine" / "latest"), f"--data.init_args.predict_paths=[{new}/images]"])
    run = Run(runs / "own" / "mine" / "latest")
    rows = pd.concat(map(pd.read_parquet, run.path.glob("predictions/_predict_paths*/*.parquet")))
    assert len(rows) == 4
    assert set(rows["label_name"]) <= {"disc", "bar", "cross"}
    samples: Any = rows.itertuples()
    for row, (height, width) in zip(samples, [(24, 24), (31, 50)] * 2, strict=True):
        with Image.open(run.path / str(row.mask_file)) as image:
            assert image.mode == "P"
            mask = np.asarray(image)
        assert mask.shape == (height, width)
        assert mask.max() < 3
        assert row.foreground == pytest.approx((mask > 0).mean())


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a command ends, exit status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("plcourse: error")]
    return line


@pytest.mark.medium
def test_a_checkpoint_of_other_classes_is_refused_in_one_line(
    mask_folder: Callable[..., Path], runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "mine.yaml", own_folder_config(mask_folder()))
    main(["fit", "-c", str(config), "--trainer.max_epochs=1"])
    latest = runs / "own" / "mine" / "latest"
    line = refused(["test", "--run", str(latest), "--data.init_args.source=digits_on_photos"], capsys)
    assert "digits_on_photos has the class '0', which the checkpoint was not trained on" in line


@pytest.mark.medium
def test_averaging_works_with_another_lessons_model(runs: Path) -> None:
    """`ddp/one_process` with an average: named on the command line, nothing else changed."""
    limits = ["--trainer.max_epochs=2", "--trainer.limit_train_batches=4", "--trainer.limit_val_batches=1"]
    flags = ["--trainer.callbacks+=EMA", "--trainer.callbacks.start=0.5", "--trainer.callbacks.decay=0.5"]
    main(["fit", "-c", "ddp/one_process", *limits, *flags, "--then", "test", "--trainer.limit_test_batches=1"])
    checkpoint = torch.load(Run.load("ddp/one_process", runs).checkpoint("last"), weights_only=True)
    assert checkpoint["averaging_state"]["n_averaged"] == 4
    name = "network.head.weight"
    assert not torch.equal(checkpoint["state_dict"][name], checkpoint["current_model_state"][name])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data__init_args__source": "mask_foldr"}, "did you mean 'mask_folder'"),
        ({"data__init_args__image_size": 4}, "digits_on_photos takes 8 to 200 pixels"),
        ({"model__init_args__class_weight": -1.0}, "both must be 0 or more, one above 0"),
        ({"data__init_args__augment__init_args__transforms": [{"Afine": None}]}, "did you mean 'Affine'"),
        ({"data__init_args__source": "oxford_pets", "data__init_args__root": "/dev/null"}, "oxford_pets"),
    ],
    ids=["source", "size", "weight", "transform", "pets"],
)
def test_a_mistake_is_one_line(
    runs: Path, tmp_path: Path, changes: dict[str, Any], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(tmp_path / "wrong.yaml", vision_config(**changes))
    assert told in refused(["fit", "-c", str(path)], capsys)


def killed_run_ends_alike(
    forked: Command, tmp_path: Path, runs: Path, name: str, step: int, changes: dict[str, Any]
) -> None:
    ends = kill_at_step(forked, tmp_path, runs, name, step, vision_config(**changes))
    states = [torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in ends]
    for part in ("current_model_state", "averaging_state"):
        assert_equal(states[0].get(part), states[1].get(part), part)


@pytest.mark.slow
def test_a_run_killed_while_averaging_ends_like_an_uninterrupted_one(
    forked: Command, tmp_path: Path, runs: Path
) -> None:
    killed_run_ends_alike(forked, tmp_path, runs, "ema", 2 * STEPS_PER_EPOCH + 5, averaged("EMA", decay=0.9))


@pytest.mark.slow
@pytest.mark.parametrize("arm", ["plain", "swa", "ema", "two_processes"])
def test_killed_at_random_steps(forked: Command, tmp_path: Path, runs: Path, arm: str) -> None:
    """5 of the 20 kills, before, at and after the start of the average."""
    changes: dict[str, Any] = {
        "plain": {"data__init_args__num_workers": 2},
        "swa": averaged("SWA"),
        "ema": averaged("EMA", decay=0.9),
        "two_processes": {**averaged("SWA", every_n_steps=2), **TWO_PROCESSES, "data__init_args__batch_size": 20},
    }[arm]
    for step in random.Random(arm).sample(range(1, 4 * STEPS_PER_EPOCH), 5):
        killed_run_ends_alike(forked, tmp_path, runs, arm, step, changes)


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(forked: Command, tmp_path: Path, runs: Path) -> None:
    """With group norms, which see no other sample: losses, averages and the exact scores of an uneven validation part.

    In double precision, where no rounding is amplified.
    """
    shared = {
        **averaged("EMA", decay=0.9),
        "trainer__precision": "64-true",
        "trainer__max_epochs": 2,
        "model__init_args__encoder__init_args": {"widths": [8, 16], "groups": 2},
        "model__init_args__dropout": 0.0,
        "data__init_args__val_size": 61,
        "data__init_args__test_size": 4541,
    }
    found = []
    for name, changes in (("one", {}), ("two", {**TWO_PROCESSES, "data__init_args__batch_size": 20})):
        forked("fit", "-c", write_config(tmp_path / f"{name}.yaml", vision_config(**{**shared, **changes})))
        run = Run(runs / "own" / name / "latest")
        rows = {(row["step"], row["metric"]): row["value"] for row in run.metrics}
        found.append((rows, torch.load(run.checkpoint("last"), weights_only=True)["state_dict"]))
    (one, weights_1), (two, weights_2) = found
    assert one.keys() == two.keys()
    assert len(one) > 40
    for key, value in one.items():
        assert two[key] == pytest.approx(value, rel=1e-6), key
    for name, value in weights_1.items():
        torch.testing.assert_close(weights_2[name], value, rtol=1e-7, atol=1e-9)
