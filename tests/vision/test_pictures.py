"""Captions name what is shown and never overlap; each predicted mask has a separate file inside the run."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from plcourse.vision.pictures import draw, mask_file

NAMES = ["golden retriever", "Zwergschnauzer dog", "cat"]
DATA: Any = SimpleNamespace(
    normalization=SimpleNamespace(mean=[0, 0, 0], std=[1, 1, 1]), label_names=NAMES, mask_names=["none", "animal"]
)


def drawn(rows: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Figure:
    figures: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **kw: (figures.append(self), save(self, *args, **kw)))
    draw(rows, DATA, tmp_path, "best")
    return figures[0]


@pytest.mark.parametrize("masks", [True, False])
def test_captions_name_truth_and_prediction_and_do_not_overlap(
    masks: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mask = np.zeros((16, 16), np.uint8)
    mask[4:8] = 1
    rows = []
    for at in range(4):
        sample: dict[str, Any] = {"image": np.zeros((3, 16, 16)), "label": at % 3, "predicted": 1}
        rows.append((0.5, f"id/{at}", {**sample, "masks": [mask, mask]} if masks else sample))
    figure = drawn(rows, tmp_path, monkeypatch)
    titles = [axes.title.get_text() for axes in figure.axes]
    first = "true golden retri…\npredicted Zwergschnauz…"
    assert titles[0] == (first if masks else f"{first}\np(true) 0.500")
    assert titles[1:3] == (["true mask", "predicted mask\nIoU 0.500"] if masks else titles[1:3])
    assert [axes.title.get_color() for axes in figure.axes[:: 3 if masks else 1]] == ["#c8553d", "black"] + [
        "#c8553d"
    ] * 2
    with Image.open(tmp_path / "test-best.png") as image:
        pixels_HW = np.asarray(image.convert("L"))[:-50]  # without the legend
    across, width = 6 if masks else 2, pixels_HW.shape[1]
    edges = [0, *(round(at * width / across) for at in range(1, across)), width - 1]
    assert (pixels_HW[:, edges] == 255).all()  # nothing crosses from one picture into the next, or out of the page


def test_a_mask_stays_inside_the_runs_folder() -> None:
    names = ["digits/7", "/home/me/a.jpg", "../../b.png", "c:\\d\\e.tif", "a.png", "a.jpg.png"]
    assert [mask_file(name) for name in names] == [
        "masks/digits/7.png",
        "masks/%/home/me/a.jpg.png",
        "masks/%2E%2E/%2E%2E/b.png",
        "masks/c%3A%5Cd%5Ce.tif.png",
        "masks/a.png",
        "masks/a.jpg%2Epng.png",
    ]


@given(st.lists(st.text(st.sampled_from("a./%:\\\0é\ud800"), max_size=12).map(lambda name: f"{name}.jpg"), unique=True))
def test_each_id_has_a_separate_mask_inside_the_folder(names: list[str]) -> None:
    names += [f"{name}.png" for name in names]
    paths = [os.path.normpath(mask_file(name)) for name in names]
    assert len(set(paths)) == len(set(names))
    assert all(path.startswith("masks/") and path.endswith(".png") for path in paths)
    assert not any(other.startswith(f"{path}/") for path in paths for other in paths)  # no file in the way of a folder
    assert all(mask_file(name) == path for name, path in zip(names, paths, strict=True))  # nothing to normalize


def test_a_mask_of_a_long_id_fits_every_file_system() -> None:
    names = ["x" * 300 + end + ".png" for end in ("a", "b")]
    files = [mask_file(name) for name in names]
    assert len(set(files)) == 2
    assert all(len(piece.encode()) <= 255 for file in files for piece in file.split("/"))
