"""Charts of horizontal rows, written as PNG files without a display. matplotlib is imported when one is drawn."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from plcourse.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(height: float) -> "Figure":
    """An empty figure, 11 inches wide.

    Args:
        height: inches.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(11, height), dpi=150, layout="constrained")


def as_rows(axes: "Axes", labels: list[str]) -> None:
    """Lays the axes out as one row per label, the first on top, with vertical grid lines."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(max(1, len(labels)) - 0.5, -0.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=9)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)


def note(axes: "Axes", text: str, point: tuple[float, float], offset: tuple[float, float], **style: Any) -> Any:
    """Writes text at an offset in points from a point of the axes, centered vertically."""
    return axes.annotate(text, point, offset, textcoords="offset points", **{"va": "center", **style})


def save(figure: "Figure", path: Path) -> None:
    """Writes a figure as PNG.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror}") from error
