"""The four pictures of a curriculum, each a PNG file. Matplotlib is imported when the first is drawn."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from plcourse.console.figures import caption, new_figure, save, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLORS = {"easy": "#2a7f62", "medium": "#d18f00", "hard": "#b5342b"}
_COLUMNS = 8  # images in a row


def draw_pacing(path: Path, passes: Sequence[tuple[int, float]], batches: int) -> None:
    """Draws the fraction that is admitted from the first batch of each pass on, over all training batches."""
    figure, axes = _figure(6, 3.2)
    starts, fractions = zip(*passes, strict=True)
    axes.step([*starts, batches], [*fractions, fractions[-1]], where="post", color="#2b5c8a", linewidth=1.8)
    axes.set(xlabel="training batch", ylabel="admitted fraction", ylim=(0, 1.04), xlim=(0, batches))
    _save(figure, axes, path)


def draw_difficulty(path: Path, scores_N: np.ndarray, scorer: str) -> None:
    """Draws a histogram of the scores with the borders of the thirds."""
    figure, axes = _figure(6, 3.2)
    counts, edges = np.histogram(scores_N, bins=60)
    axes.stairs(counts, edges, fill=True, color="#9fb3c8")
    borders = np.quantile(scores_N, (1 / 3, 2 / 3))
    for border in borders:
        axes.axvline(border, color="#555555", linewidth=1, linestyle=(0, (4, 3)))
    places = (edges[0] + borders[0]) / 2, borders.mean(), (borders[1] + edges[-1]) / 2
    for (name, color), place in zip(_COLORS.items(), places, strict=True):
        axes.text(place, counts.max() * 1.1, name, color=color, ha="center", fontsize=9)
    axes.set_ylim(0, counts.max() * 1.2)
    axes.set(xlabel=f"difficulty ({scorer})", ylabel="training samples")
    _save(figure, axes, path)


def draw_terciles(path: Path, accuracy: Mapping[str, Sequence[tuple[int, float]]]) -> None:
    """Draws (optimizer steps, accuracy) after each epoch for the easy, medium and hard third."""
    figure, axes = _figure(6, 3.2)
    for name, points in accuracy.items():
        steps, values = zip(*points, strict=True) if points else ((), ())
        axes.plot(steps, values, color=_COLORS[name], linewidth=1.8, marker=".", label=name)
    axes.set(xlabel="optimizer step", ylabel="accuracy on training samples", ylim=(0, 1.04))
    axes.legend(frameon=False, loc="lower right", fontsize=9)
    _save(figure, axes, path)


def draw_examples(path: Path, images_MCHW: np.ndarray, labels: Sequence[str], scores_M: np.ndarray) -> None:
    """Draws M samples with labels and scores: the easiest half, then the hardest, in the common range of the images."""
    half = len(labels) // 2
    rows = -(-half // _COLUMNS)
    # one picture for all images, since separate axes would take seconds to draw
    sheet, corners = _mosaic(images_MCHW, half, rows)
    height, width = sheet.shape[:2]
    figure, axes = _figure(8.4, 8.4 * height / width)
    axes.imshow(sheet if sheet.shape[-1] == 3 else sheet[..., 0], cmap="gray", vmin=0, vmax=1)
    size = images_MCHW.shape[3]
    for (top, left), label, score in zip(corners, labels, scores_M, strict=True):
        axes.text(
            left + size / 2,
            top - 0.04 * size,
            f"{caption(label, 15)}\n{score:.3g}",
            fontsize=7,
            ha="center",
            va="bottom",
        )
    titles = ("easiest first: label and difficulty", "hardest first: label and difficulty")
    for title, (top, left) in zip(titles, (corners[0], corners[half]), strict=True):
        axes.text(left, top - 0.4 * size, title, fontsize=11, fontweight="bold", va="bottom")
    axes.set_axis_off()
    save(figure, path)


def _mosaic(images_MCHW: np.ndarray, half: int, rows: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The images on white in two blocks of rows, and the upper left corner of each image."""
    _, channels, height, width = images_MCHW.shape
    low, high = float(images_MCHW.min()), float(images_MCHW.max())
    pixels_MHWC = (np.moveaxis(images_MCHW, 1, 3) - low) / max(high - low, 1e-12)
    step_y, step_x, title = round(1.4 * height), round(1.12 * width), round(0.3 * height)
    block = rows * step_y + title
    sheet = np.ones((2 * block, _COLUMNS * step_x, channels))
    corners = []
    for number, image_HWC in enumerate(pixels_MHWC):
        part, place = divmod(number, half)
        row, column = divmod(place, _COLUMNS)
        top, left = part * block + title + row * step_y + step_y - height, column * step_x
        sheet[top : top + height, left : left + width] = image_HWC
        corners.append((top, left))
    return sheet, corners


def _figure(width: float, height: float) -> tuple["Figure", "Axes"]:
    figure = new_figure(width, height, dpi=130)
    return figure, figure.subplots()


def _save(figure: "Figure", axes: "Axes", path: Path) -> None:
    tidy(axes)
    save(figure, path)
