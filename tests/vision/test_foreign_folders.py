"""Photos and masks of other people through fit, test, predict and export, computed again without the suite."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
from PIL import Image, ImageOps

import plcourse
from plcourse.__main__ import main
from support import digits_config
from vision_configs import folder_config

QUARTER = 6  # the EXIF orientation of a photo that is taken upright
STORED = {1: lambda a: a, QUARTER: lambda a: np.rot90(a)}  # the pixels that a file stores of those that it shows
SIZES = ((16, 16), (20, 32), (40, 24))


def save(path: Path, shown: np.ndarray, orientation: int = 1, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x0112] = orientation
    kept = {} if path.suffix == ".tga" else {"exif": exif}
    Image.fromarray(np.ascontiguousarray(STORED[orientation](shown))).save(path, **kept, **options)


def foreign_images(root: Path) -> None:
    """Photos of two classes, bright at the left or at the top, in folders and formats as people have them."""
    draw = np.random.default_rng(0)
    for part, n in (("Train", 30), ("VALID", 8), ("testing", 15)):
        for name in ("left", "top"):
            for i in range(n):
                height, width = SIZES[i % 3]
                image = draw.integers(0, 90, (height, width, 3)).astype(np.uint8)
                image[(slice(None), slice(width // 2)) if name == "left" else slice(height // 2)] += 120
                path = root / part / name / f"{i:02d}"
                if i % 5 == 0:
                    save(path.with_suffix(".jfif"), image, QUARTER, format="JPEG", quality=95)
                elif i % 5 == 1:
                    save(path.with_suffix(".png"), image, QUARTER)
                elif i % 5 == 2:
                    alpha = np.full((height, width, 1), 255, np.uint8)
                    alpha[0] = 0
                    save(path.with_suffix(".PNG"), np.dstack([image, alpha]))
                else:
                    save(path.with_suffix(".tga" if i % 5 == 3 else ".jp2"), image)
    (root / "testing/left/Thumbs.db").write_bytes(b"x")
    (root / "testing/left/list.csv").write_text("x")


def as_shown(path: Path) -> np.ndarray:
    """uint8 [3, H, W] of a file as a viewer shows it, by Pillow's own functions."""
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image).convert("RGBA")
    return np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")).transpose(
        2, 0, 1
    )


@pytest.mark.medium
def test_a_foreign_image_folder_from_fit_to_export(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "0017"  # a name that must not become a number on its way through a flag
    foreign_images(folder)
    monkeypatch.chdir(tmp_path)
    config = digits_config(trainer__max_epochs=12)
    network = {"class_path": "FoldableNet", "init_args": {"channels": 3, "num_classes": 2, "widths": [8, 16]}}
    config["model"] = {"class_path": "ImageClassifier", "init_args": {"network": network, "num_classes": 2}}
    data = {"source": "image_folder", "image_size": 16, "batch_size": 12}
    config["data"] = {"class_path": "ExportData", "init_args": data}
    run = plcourse.run("fit", config, {"data.init_args.root": "0017"}, then=["test"])
    said = capsys.readouterr().out
    assert "image_folder: left out 1 file that Pillow does not read as an image: 1 .csv" in said
    assert "22 of 106 images have an alpha channel; transparent pixels become white" in said

    predicted = pd.concat(map(pd.read_parquet, run.predict())).set_index("id")
    truth = predicted.index.str.split("/").str[1]
    assert len(predicted) == 30
    assert all(predicted.index.str.startswith("testing/"))
    accuracy = run.eval("test")["metrics"]["test/accuracy"]
    assert accuracy == pytest.approx((predicted["label_name"].astype(str) == truth).mean())
    assert accuracy > 0.9  # turned photos would be half of a coin's

    main(
        ["export", "--run", str(run.path), "--format", "onnx", "--preprocess", "--probabilities", "--batch_sizes", "2"]
    )
    assert json.loads((run.path / "export/verification.json").read_text())["rows"]["onnx"]["status"] == "verified"
    (file,) = (run.path / "export/onnx").glob("*.onnx")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for name, row in predicted.iloc[::4].iterrows():
        pixels = as_shown(folder / str(name))
        outputs: Any = session.run(None, {session.get_inputs()[0].name: pixels[None]})
        (probability,) = outputs
        assert probability[0] == pytest.approx(np.stack(row["probability"]), abs=1e-4), name


@pytest.mark.medium
def test_a_foreign_mask_folder_of_rotated_photos_from_fit_to_predicted_masks(tmp_path: Path, runs: Path) -> None:
    """Masks drawn on the photos as shown and as stored; the size is that of the photos, so nothing is scaled."""
    draw, rows, true = np.random.default_rng(0), [("file", "label")], {}
    for i in range(60):
        shown, mask = draw.integers(0, 60, (24, 16, 3)).astype(np.uint8), np.zeros((24, 16), np.uint8)
        top, left = draw.integers(0, 16), draw.integers(0, 8)
        shown[top : top + 8, left : left + 8] += 180
        mask[top : top + 8, left : left + 8] = 255
        name = f"{i:02d}.jfif" if i % 2 else f"{i:02d}.png"
        options = {"format": "JPEG", "quality": 95} if i % 2 else {}
        save(tmp_path / "scans/Images" / name, shown, QUARTER, **options)
        save(tmp_path / "scans/masks" / f"{i:02d}.png", mask if i % 3 else np.rot90(mask))
        rows.append((name, "ab"[i % 2]))
        true[name] = mask == 255
    with (tmp_path / "scans/labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    settings = {"image_size": [24, 16], "batch_size": 6}
    config = folder_config(tmp_path / "scans", "MaskWriter", widths=(8, 16), max_epochs=10, **settings)
    run = plcourse.run("fit", config, then=["test"])
    predicted = pd.concat(map(pd.read_parquet, run.predict())).set_index("id")
    assert len(predicted) == 12
    both = either = 0
    for name, row in predicted.iterrows():
        with Image.open(run.path / str(row["mask_file"])) as image:
            found = np.asarray(image) == 1
        assert found.shape == (24, 16)
        both, either = both + (found & true[str(name)]).sum(), either + (found | true[str(name)]).sum()
    iou = run.eval("test")["metrics"]["test/foreground_iou"]
    assert iou == pytest.approx(both / either, abs=1e-6)
    assert iou > 0.8
