"""Figures without a screen, drawn only where a diagnostic asks for one."""

from pathlib import Path
from typing import Any

INK, SECOND, GRID = "#1f4e79", "#c8553d", "#d9d9d9"


def figure(width: float = 5.0, height: float = 4.2, **grid: Any) -> tuple[Any, Any]:
    """A figure and its axes, with matplotlib imported here; sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(drawn)
    return drawn, drawn.subplots(**grid)


def tidy(axes: Any) -> None:
    """Leaves of the frame what is read, and puts a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def save(drawn: Any, path: Path) -> None:
    """Writes a PNG; a kill leaves the old one."""
    temporary = path.with_name(f".{path.name}.tmp")
    drawn.savefig(temporary, dpi=150, format="png")
    temporary.replace(path)
