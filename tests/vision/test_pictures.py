"""Captions of pictures say what is shown, and none runs into its neighbor."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from plcourse.vision.pictures import draw

NAMES = ["golden retriever", "Zwergschnauzer dog", "cat"]
DATA = SimpleNamespace(
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
