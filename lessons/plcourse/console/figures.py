"""Figures that are written as PNG files without a display. matplotlib is imported when one is drawn."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from plcourse.errors import RunFailed, UserError
from plcourse.files import staged

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation


def new_figure(
    width: float, height: float, dpi: int = 150, layout: Literal["constrained"] | None = "constrained"
) -> "Figure":
    """Returns an empty figure, which nothing but its reference keeps open.

    Args:
        width: inches.
        height: inches.
        dpi: pixels per inch of the file.
        layout: None keeps the margins that the caller sets, and halves the time that drawing takes.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=dpi, layout=layout)


def caption(name: str, longest: int = 18) -> str:
    """Returns a name as a figure can show it: on one line, short, and with dollar signs that begin no formula.

    Args:
        name: any text, such as the name of a class.
        longest: characters, 2 or more; an ellipsis replaces the rest.
    """
    plain = "".join(c if c.isprintable() else " " for c in name)
    return (plain if len(plain) <= longest else f"{plain[: longest - 1]}…").replace("$", r"\$")


def tidy(axes: "Axes", lines: Literal["both", "x"] = "both") -> None:
    """Hides unused spines and draws a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=lines, color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)


def as_rows(axes: "Axes", labels: list[str]) -> None:
    """Arranges the axes as one row per label, the first at the top, with vertical grid lines."""
    tidy(axes, "x")
    axes.spines["left"].set_visible(False)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(max(1, len(labels)) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=9)


def note(
    axes: "Axes", text: str, point: tuple[float, float], offset: tuple[float, float], **style: Any
) -> "Annotation":
    """Writes text at an offset in points from a point of the axes, centered vertically."""
    return axes.annotate(text, point, offset, textcoords="offset points", **{"va": "center", **style})


def save(figure: "Figure", path: Path, failure: type[UserError] = RunFailed) -> None:
    """Replaces a PNG file by a figure, atomically.

    Raises:
        UserError: the file cannot be written; of the class ``failure``.
    """
    try:
        with staged(path) as temporary:
            figure.savefig(temporary, format="png")
    except OSError as error:
        raise failure(f"cannot write '{path}': {error.strerror}") from error
