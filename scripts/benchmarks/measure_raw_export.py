"""Compares exported files on the raw pixels of square, wide and tall photos with `predict` on the files, for each rule.

python scripts/benchmarks/measure_raw_export.py [--rules crop stretch pad] [--image_size 28 40] [--epochs 12]

The script makes the photos: noise with a slightly brighter or darker bar in the middle and the opposite at the edges.
It trains a classifier on them, tests it, predicts with it and exports it with ``--preprocess --probabilities``. The
last row squeezes the photos to the model's size before the file gets them, which `stretch` does and the other rules do
not.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.nn import functional

import plcourse
from plcourse.export.runners import Runner, open_exported

SHAPES = {"square": (72, 72), "wide": (48, 144), "tall": (144, 48)}
FORMATS = ("onnx", "onnx_int8", "torchscript_trace", "torchscript_script", "torch_export")


def make_photos(root: Path, per_class: int) -> None:
    """Writes photos of two classes in each shape, with the shape in their names."""
    draw = np.random.default_rng(0)
    for shape, (height, width) in SHAPES.items():
        for label, sign in (("dark", -1), ("bright", 1)):
            (root / label).mkdir(parents=True, exist_ok=True)
            for i in range(per_class):
                image = draw.integers(60, 181, (height, width, 3))
                image += sign * draw.integers(2, 30) * _bar(height, width)[:, :, None]
                Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(root / label / f"{shape}-{i:03d}.png")


def _bar(height: int, width: int) -> np.ndarray:
    """Returns 1 in the middle third, -1 at the edges of the longer side, 0 elsewhere."""
    bar = np.zeros((height, width), int)
    bar[height // 3 : -(height // 3), width // 3 : -(width // 3)] = 1
    rim = max(height, width) // 6
    for side in (slice(None, rim), slice(-rim, None)):
        bar[(slice(None), side) if width >= height else side] = -1
    return bar


def raw_of(path: Path) -> np.ndarray:
    """Reads a photo as uint8 [1, 3, H, W]."""
    with Image.open(path) as image:
        return np.ascontiguousarray(np.asarray(image.convert("RGB")).transpose(2, 0, 1)[None])


def squeezed(raw: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Squeezes the pixels to a size, as an export once did for every model."""
    pixels = functional.interpolate(torch.from_numpy(raw).float(), size, mode="bilinear", antialias=True)
    return pixels.round().to(torch.uint8).numpy()


def cell(rows: list[Any], photos: Path, runner: Runner, squeeze_to: tuple[int, int] | None = None) -> str:
    """Counts the decisions that agree with `predict`, and finds the largest difference of a probability."""
    same, largest = 0, 0.0
    for row in rows:
        raw = raw_of(photos / str(row.id))
        ((found,),) = runner([raw if squeeze_to is None else squeezed(raw, squeeze_to)])
        same += int(found.argmax() == np.argmax(row.probability))
        largest = max(largest, float(np.abs(found - row.probability).max()))
    return f"{same} of {len(rows)}, {largest:.1e}"


def measure(rule: str, size: tuple[int, int], epochs: int, photos: Path, runs: Path) -> None:
    """Trains, predicts and exports with one rule, and prints its table."""
    network = {"channels": 3, "widths": [8, 16], "num_classes": 2}
    data = {"source": "image_folder", "root": str(photos), "image_size": list(size), "resize": rule, "augment": None}
    data |= {"val_size": 0.2, "test_size": 0.3, "batch_size": 32}
    overrides = {
        **{f"data.init_args.{key}": value for key, value in data.items()},
        **{f"model.init_args.network.init_args.{key}": value for key, value in network.items()},
        "model.init_args.num_classes": 2,
        "trainer.max_epochs": epochs,
    }
    then = ["test", "predict", "export"]
    flags = ["--format", ",".join(FORMATS), "--preprocess", "--probabilities", "--batch_sizes", "1"]
    run = plcourse.run("fit", "export/classifier", overrides, then=then, runs_root=runs, flags=flags)
    table = pd.concat(pd.read_parquet(path) for path in run.predictions)
    rows: list[Any] = list(table.itertuples())
    parts = {shape: [row for row in rows if f"/{shape}-" in row.id] for shape in SHAPES}
    accuracy = run.eval("test")["metrics"]["test/accuracy"]
    print(f"\nresize: {rule}, image_size {list(size)}, test/accuracy {accuracy:.4f}")
    print(f"\n| format | {' | '.join(f'{shape} {h} x {w}' for shape, (h, w) in SHAPES.items())} |\n|{'---|' * 4}")
    for name in FORMATS:
        runner, _ = open_exported(run, name)
        print(f"| `{name}` | {' | '.join(cell(part, photos, runner) for part in parts.values())} |", flush=True)
    runner, _ = open_exported(run, "onnx")
    print(f"| `onnx`, squeezed before | {' | '.join(cell(part, photos, runner, size) for part in parts.values())} |")


def main() -> None:
    """Prints one table per rule: decisions that agree, and the largest difference of a probability."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rules", nargs="+", default=["crop", "stretch", "pad"])
    parser.add_argument("--image_size", nargs=2, type=int, default=[28, 40])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--per_class", type=int, default=60, help="number of photos per class and shape")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        make_photos(photos, options.per_class)
        for rule in options.rules:
            measure(rule, tuple(options.image_size), options.epochs, photos, Path(folder) / "runs")


if __name__ == "__main__":
    main()
