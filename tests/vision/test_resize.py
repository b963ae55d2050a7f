"""Images of any shape with a mask each: padding belongs to no class, and predicted masks cover the whole input."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.nn import functional

from plcourse import Run
from plcourse.__main__ import main
from plcourse.data import IGNORE, MaskSplits, open_masks
from plcourse.data.resize import in_size_of_input, window_of
from plcourse.export.runners import open_exported
from support import write_config
from vision_configs import folder_config


def test_padding_belongs_to_no_class_and_is_undone(mask_folder: Callable[..., Path]) -> None:
    root = mask_folder(sizes=((24, 60), (60, 24)))
    source = open_masks("mask_folder", str(root), (32, 32), resize="pad")
    for i, (height, width) in enumerate(source.sizes.tolist()):
        top, left, rows, columns = window_of(height, width, (32, 32), "pad")
        mask, raw = source.read_masks(np.array([i]))[0], source.read_raw_mask(i)
        assert raw.shape == source.read_raw(i).shape[1:] == (height, width)
        outside = torch.ones(32, 32, dtype=torch.bool)
        outside[top : top + rows, left : left + columns] = False
        assert (mask[outside] == IGNORE).all()
        assert (mask[~outside] != IGNORE).all()
        shrunk = functional.interpolate(raw[None, None].float(), size=(rows, columns), mode="nearest-exact")[0, 0]
        assert torch.equal(mask[~outside].reshape(rows, columns), shrunk.to(torch.uint8))
    parts = MaskSplits("mask_folder", str(root), (32, 32), val_size=0, test_size=0, resize="pad")
    (batch,) = parts.eval_loader(None, "train", 100)
    assert batch["window"].tolist() == [list(window_of(h, w, (32, 32), "pad")) for h, w in batch["size"].tolist()]


def test_scores_of_the_padding_are_left_out() -> None:
    """The window says class 1 and the padding class 2: no pixel of the input is class 2, up to its rim."""
    window = window_of(30, 90, (32, 32), "pad")
    scores = torch.zeros(3, 32, 32)
    scores[2] = 1
    scores[1, window.top : window.top + window.height] = 2
    mask = in_size_of_input(scores, (30, 90), window).argmax(dim=0)
    assert mask.shape == (30, 90)
    assert (mask == 1).all()


@pytest.mark.medium
def test_predicted_masks_leave_the_padding_out(
    mask_folder: Callable[..., Path], runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = mask_folder(n=12, sizes=((24, 60), (60, 24), (30, 30)))
    config = folder_config(root, "MaskWriter", max_epochs=1, image_size=[32, 40], resize="pad")
    path = write_config(tmp_path / "padded.yaml", config)
    main(["fit", "-c", str(path), "--then", "predict"])
    run = Run(runs / "own" / "padded" / "latest")
    rows = pd.concat(pd.read_parquet(file) for file in run.predictions).set_index("id")
    pairs: Any = rows.iterrows()
    for name, row in pairs:
        mask = np.asarray(Image.open(run.path / row["mask_file"]))
        assert mask.shape == np.asarray(Image.open(root / "images" / str(name))).shape[:2]
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["fit", "-c", str(path), "--data.init_args.resize", "crop"])
    assert "a mask must cover the whole input; give 'pad'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["pad", "stretch"])
def test_an_exported_segmenter_gives_the_masks_that_predict_writes(
    mask_folder: Callable[..., Path], runs: Path, tmp_path: Path, rule: str
) -> None:
    """From the raw pixels of images of several shapes, each mask in the size of its image; the metric is of these."""
    root = mask_folder(n=24, sizes=((24, 60), (60, 24), (30, 30), (44, 52)))
    config = folder_config(root, "Overlays", "MaskWriter", image_size=[24, 32], resize=rule)
    path = write_config(tmp_path / "whole.yaml", config)
    words = ["--format", "onnx", "--preprocess", "--probabilities", "--batch_sizes", "1,3"]
    main(["fit", "-c", str(path), "--then", "predict,export", *words])
    run = Run(runs / "own" / "whole" / "latest")
    row = json.loads((run.path / "export" / "verification.json").read_text())["rows"]["onnx"]
    assert row["status"] == "verified"
    runner, card = open_exported(run, "onnx")
    assert [port.shape for port in card.outputs] == [["batch", 3], ["batch", 3, "height", "width"]]
    counts = np.zeros((3, 3), np.int64)
    samples: Any = pd.concat(pd.read_parquet(file) for file in run.predictions).itertuples()
    for sample in samples:
        image, written, true = (
            np.asarray(Image.open(BytesIO(file.read_bytes())))
            for file in (
                root / "images" / str(sample.id),
                run.path / str(sample.mask_file),
                root / "masks" / str(sample.id),
            )
        )
        probability, mask = runner([np.ascontiguousarray(image.transpose(2, 0, 1)[None])])
        np.testing.assert_allclose(probability[0], sample.probability, atol=1e-5)
        assert mask.shape == (1, 3, *written.shape)
        assert (mask[0].argmax(axis=0) == written).mean() > 0.999
        np.add.at(counts, (true, mask[0].argmax(axis=0)), 1)
    either = counts.sum(axis=0) + counts.sum(axis=1) - np.diag(counts)
    iou = (np.diag(counts) / np.maximum(either, 1))[1:][either[1:] > 0].mean()
    (foreground,) = (each for each in row["other_metrics"] if each["name"] == "test/foreground_iou")
    assert foreground["exported"] == pytest.approx(iou, abs=1e-5)
    assert foreground["drop"] == pytest.approx(0, abs=1e-3)
