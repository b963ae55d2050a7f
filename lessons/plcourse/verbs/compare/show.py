"""The report as a table of text and as a plot."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plcourse.console.captions import caption
from plcourse.console.layout import broken, fitted, width
from plcourse.errors import UserError
from plcourse.verbs.compare.cells import as_key
from plcourse.verbs.compare.wording import grid_line, interval_name, p_equals, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which people with any common colour blindness can tell apart, without its yellow
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def as_text(report: dict[str, Any]) -> str:
    """The report as `plcourse compare` prints it."""
    parts = [_metric_line(report)]
    parts += [f"FORCED  {line}" for line in report["forced"]]
    tested = _tested(report)
    for comparison in report["comparisons"]:
        parts += ["", *_comparison_lines(comparison, report, tested)]
    notes = [*report["notes"]]
    if tested:
        notes.append(
            "intervals hold one by one; d is Cohen's d_z with Hedges' correction"
            + (f"; p (Holm) is adjusted for all {tested} tests above" if tested > 1 else "")
        )
    if any(test["needed"] for comparison in report["comparisons"] for test in comparison["tests"]):
        notes.append("a number of pairs needed is computed from the spread seen here, itself an estimate")
    lines = [*parts, "", *(f"- {note}" for note in notes)]
    return "\n".join(line for each in lines for line in broken(each, width())) + "\n"


def _metric_line(report: dict[str, Any]) -> str:
    return f"{report['metric']} ({'larger' if report['mode'] == 'max' else 'smaller'} is better)"


def _tested(report: dict[str, Any]) -> int:
    """Tests with a p-value, which is the family of Holm's adjustment."""
    return sum(test["p"] is not None for comparison in report["comparisons"] for test in comparison["tests"])


def _comparison_lines(comparison: dict[str, Any], report: dict[str, Any], tested: int) -> list[str]:
    tests = {test["arm"]: test for test in comparison["tests"]}
    resampled = comparison["test_train_ratio"] is not None
    spreads = [arm["sd"] for arm in comparison["arms"]] + [test["difference"] for test in tests.values()]
    digits = _digits([abs(spread) for spread in spreads if spread])
    head = ["arm", "n", "mean", "sd", "difference", interval_name(1 - report["alpha"]), "p"]
    head += ["p (Holm)"] * (tested > 1) + ["p (naive)"] * resampled + ["d"]
    rows = []
    for arm in comparison["arms"]:
        row = [arm["arm"], str(arm["n"]), _fixed(arm["mean"], digits), _fixed(arm["sd"], digits)]
        test = tests.get(arm["arm"])
        if test is None:
            rows.append([*row, "baseline", *[""] * (len(head) - 5)])
            continue
        interval = "-"
        if test["low"] is not None:
            interval = f"{test['low']:+.{digits}f} to {test['high']:+.{digits}f}"
        row += [_fixed(test["difference"], digits, "+"), interval, _p_text(test["p"])]
        row += [_p_text(test["p_holm"])] * (tested > 1) + [_p_text(test["p_naive"])] * resampled
        rows.append([*row, _fixed(test["effect_size"], 2, "+")])
    lines = [grid_line(comparison["grid"])] if comparison["grid"] else []
    lines += [*fitted(head, rows, range(1, len(head)), width()), ""]
    lines += [test["sentence"] for test in comparison["tests"]]
    return [*lines, "", *_cell_lines(comparison["cells"], digits)]


def _cell_lines(cells: list[dict[str, Any]], digits: int) -> list[str]:
    keys = [key for key in cells[0]["split"] if len({as_key(cell["split"].get(key)) for cell in cells}) > 1]
    fold = ["fold"] * any(cell["fold"] is not None for cell in cells)
    head, rows = ["cell", "seed", *fold, *keys, "steps", "value", "run"], []
    for cell in cells:
        row = [cell["arm"], *(shown(cell[key]) for key in ("seed", *fold))]
        row += [*(shown(cell["split"].get(key)) for key in keys), shown(cell["steps"])]
        rows.append([*row, cell["left_out"] or _fixed(cell["value"], digits), cell["run"] or "-"])
    return fitted(head, rows, range(1, len(head) - 1), width())


def _digits(spreads: Sequence[float]) -> int:
    """Decimals that show two digits of the smallest spread, so that rows line up and none claims too much."""
    if not spreads:
        return 4
    return min(8, max(0, 1 - math.floor(math.log10(min(spreads)))))


def _fixed(value: float | None, digits: int, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.{digits}f}"


def _p_text(p: float | None) -> str:
    return "-" if p is None else "<0.0001" if p < 1e-4 else f"{p:.4f}"


def draw(report: dict[str, Any], path: Path) -> None:
    """Writes the plot: on the left each score, joined across the arms; on the right the differences' intervals.

    Args:
        report: of `build_report`.
        path: the PNG file; its folder exists.

    Raises:
        UserError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    comparisons = report["comparisons"]
    heights = [0.5 + 0.55 * len(comparison["arms"]) for comparison in comparisons]
    figure = Figure(figsize=(11, 1.5 + sum(heights) + 0.55 * len(comparisons)), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        len(comparisons), 2, squeeze=False, sharex="col", gridspec_kw={"height_ratios": heights, "wspace": 0.04}
    )
    for (left, right), comparison in zip(axes, comparisons, strict=True):
        _draw_scores(left, comparison)
        _draw_differences(right, comparison, report)
    axes[-1][0].set_xlabel(_metric_line(report))
    adjusted = "; p after Holm" if _tested(report) > 1 else ""
    axes[-1][1].set_xlabel(f"difference to the baseline, {interval_name(1 - report['alpha'])}{adjusted}")
    if report["forced"]:
        figure.suptitle("forced: the runs are not alike in everything", fontsize=10, color="#a33b00")
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror}") from error


def _draw_scores(axes: "Axes", comparison: dict[str, Any]) -> None:
    arms = [arm["arm"] for arm in comparison["arms"]]
    used = [cell for cell in comparison["cells"] if cell["used"]]
    joined: dict[str, list[tuple[float, int]]] = {}
    for cell in used:
        place = as_key([cell["seed"], cell["fold"], cell["split"]])
        joined.setdefault(place, []).append((cell["value"], arms.index(cell["arm"])))
    for points in joined.values():
        points.sort(key=lambda point: point[1])
        axes.plot(*zip(*points, strict=True), color="#b5b5b5", linewidth=0.9, zorder=1)
    for row, arm in enumerate(comparison["arms"]):
        values = [cell["value"] for cell in used if cell["arm"] == arm["arm"]]
        colour = _COLOURS[row % len(_COLOURS)]
        axes.scatter(values, [row] * len(values), s=34, color=colour, edgecolor="white", linewidth=0.7, zorder=3)
        if arm["mean"] is not None:
            axes.plot([arm["mean"]] * 2, [row - 0.28, row + 0.28], color=colour, linewidth=2.4, zorder=2)
    labels = [f"{caption(str(arm['arm']), 60)}  (n = {arm['n']})" for arm in comparison["arms"]]
    axes.set_yticks(range(len(arms)), labels)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.margins(x=0.06)
    if comparison["grid"]:
        axes.set_title(grid_line(comparison["grid"]), loc="left", fontsize=10, fontweight="bold")
    _plain(axes)


def _draw_differences(axes: "Axes", comparison: dict[str, Any], report: dict[str, Any]) -> None:
    rows = {arm["arm"]: row for row, arm in enumerate(comparison["arms"])}
    axes.axvline(0, color="#555555", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.annotate("baseline", (0, 0), (6, 0), textcoords="offset points", va="center", fontsize=9, color="#555555")
    for test in comparison["tests"]:
        row = rows[test["arm"]]
        colour = _COLOURS[row % len(_COLOURS)]
        if test["difference"] is None:
            axes.text(0.5, row, "no pairs", transform=axes.get_yaxis_transform(), ha="center", va="center", fontsize=9)
            continue
        if test["low"] is not None:
            axes.plot([test["low"], test["high"]], [row, row], color=colour, linewidth=2.4, zorder=2)
        axes.scatter([test["difference"]], [row], s=52, color=colour, edgecolor="white", linewidth=0.8, zorder=3)
        text = test["verdict"] if test["p_holm"] is None else f"{test['verdict']}, {p_equals(test['p_holm'])}"
        label = axes.annotate(text, (test["difference"], row), (0, -14), textcoords="offset points", ha="center")
        label.set(fontsize=9, bbox={"facecolor": "white", "edgecolor": "none", "pad": 1}, zorder=2)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [""] * len(rows))
    axes.margins(x=0.2)
    _plain(axes)


def _plain(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelbottom=True, labelsize=9)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(6))
