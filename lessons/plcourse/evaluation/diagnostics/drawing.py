"""Figures that are drawn without a screen. matplotlib is imported only when one is needed."""

from pathlib import Path
from typing import Any

from plcourse.files import atomic_write

INK, SECOND, GRID = "#1f4e79", "#c8553d", "#d9d9d9"


def figure(width: float = 5.0, height: float = 4.2, **grid: Any) -> tuple[Any, Any]:
    """Returns a figure and its axes; sizes in inches, ``grid`` as for `Figure.subplots`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn, drawn.subplots(**grid)


def tidy(axes: Any) -> None:
    """Hides unused spines and draws a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def save(drawn: Any, path: Path) -> None:
    """Writes a PNG atomically."""
    with atomic_write(path) as temporary:
        drawn.savefig(temporary, dpi=150, format="png")
