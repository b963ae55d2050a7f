"""Shows the result of a comparison as a table of text and as a plot."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plcourse.console.figures import as_rows, caption, new_figure, note, save
from plcourse.console.layout import broken, fitted, width
from plcourse.errors import UserError
from plcourse.verbs.compare.cells import ScoredCell, as_key
from plcourse.verbs.compare.result import Comparison, ComparisonResult
from plcourse.verbs.compare.wording import grid_line, interval_name, one_line, p_value_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The colors of Okabe and Ito, which people with any common color blindness can tell apart, without yellow.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def as_text(result: ComparisonResult) -> str:
    """The result as `plcourse compare` prints it."""
    lines = [_metric_line(result), *(f"FORCED  {line}" for line in result.forced)]
    for comparison in result.comparisons:
        lines += ["", *_comparison_lines(comparison, result)]
    notes, tested = [*result.notes], result.family_size
    if tested:
        adjusted = f"; p (Holm) is adjusted for all {tested} tests above" if tested > 1 else ""
        notes.append(f"each interval holds by itself; d is Cohen's d_z with Hedges' correction{adjusted}")
    if any(test.needed for test in result.tests):
        notes.append("the number of pairs needed is computed from the spread in these data, itself an estimate")
    lines += ["", *(f"- {note}" for note in notes)]
    return "\n".join(line for each in lines for line in broken(each, width())) + "\n"


def _metric_line(result: ComparisonResult) -> str:
    return f"{result.metric} ({'larger' if result.mode == 'max' else 'smaller'} is better)"


def _comparison_lines(comparison: Comparison, result: ComparisonResult) -> list[str]:
    tests = {test.arm: test for test in comparison.tests}
    resampled, several = comparison.test_train_ratio is not None, result.family_size > 1
    spreads = [arm.sd for arm in comparison.arms] + [test.difference for test in comparison.tests]
    digits = _digits([abs(spread) for spread in spreads if spread])
    head = ["arm", "n", "mean", "sd", "difference", interval_name(1 - result.alpha), "p"]
    head += ["p (Holm)"] * several + ["p (naive)"] * resampled + ["d"]
    rows = []
    for arm in comparison.arms:
        row = [arm.arm, str(arm.n), _fixed(arm.mean, digits), _fixed(arm.sd, digits)]
        test = tests.get(arm.arm)
        if test is None:
            rows.append([*row, "baseline", *[""] * (len(head) - 5)])
            continue
        interval = "-" if test.low is None else f"{test.low:+.{digits}f} to {test.high:+.{digits}f}"
        row += [_fixed(test.difference, digits, "+"), interval, _p_text(test.p)]
        row += [_p_text(test.p_holm)] * several + [_p_text(test.p_naive)] * resampled
        rows.append([*row, _fixed(test.effect_size, 2, "+")])
    lines = [grid_line(comparison.grid)] if comparison.grid else []
    lines += [*fitted(head, rows, range(1, len(head)), width()), ""]
    lines += [test.sentence for test in comparison.tests]
    return [*lines, "", *_cell_lines(comparison.cells, digits)]


def _cell_lines(cells: list[ScoredCell], digits: int) -> list[str]:
    keys = [key for key in cells[0].split if len({as_key(cell.split.get(key)) for cell in cells}) > 1]
    folded = any(cell.fold is not None for cell in cells)
    head, rows = ["cell", "seed", *["fold"] * folded, *keys, "steps", "value", "run"], []
    for cell in cells:
        row = [cell.arm, one_line(cell.seed), *[one_line(cell.fold)] * folded]
        row += [*(one_line(cell.split.get(key)) for key in keys), one_line(cell.steps)]
        rows.append([*row, cell.left_out or _fixed(cell.value, digits), cell.row()["run"] or "-"])
    return fitted(head, rows, range(1, len(head) - 1), width())


def _digits(spreads: Sequence[float]) -> int:
    """The decimals that show two digits of the smallest spread, so that rows line up without false precision."""
    return min(8, max(0, 1 - math.floor(math.log10(min(spreads))))) if spreads else 4


def _fixed(value: float | None, digits: int, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.{digits}f}"


def _p_text(p: float | None) -> str:
    return "-" if p is None else "<0.0001" if p < 1e-4 else f"{p:.4f}"


def draw(result: ComparisonResult, path: Path) -> None:
    """Writes a PNG: the scores on the left, joined across the arms, the differences' intervals on the right."""
    comparisons = result.comparisons
    heights = [0.5 + 0.55 * len(comparison.arms) for comparison in comparisons]
    figure = new_figure(11, 1.5 + sum(heights) + 0.55 * len(comparisons))
    axes = figure.subplots(
        len(comparisons), 2, squeeze=False, sharex="col", gridspec_kw={"height_ratios": heights, "wspace": 0.04}
    )
    for (left, right), comparison in zip(axes, comparisons, strict=True):
        _draw_scores(left, comparison)
        _draw_differences(right, comparison)
    axes[-1][0].set_xlabel(_metric_line(result))
    adjusted = "; p after Holm" if result.family_size > 1 else ""
    axes[-1][1].set_xlabel(f"difference to the baseline, {interval_name(1 - result.alpha)}{adjusted}")
    if result.forced:
        figure.suptitle("forced: the runs are not alike in everything", fontsize=10, color="#a33b00")
    save(figure, path, UserError)


def _draw_scores(axes: "Axes", comparison: Comparison) -> None:
    arms = [arm.arm for arm in comparison.arms]
    used = [(cell, cell.value) for cell in comparison.cells if cell.left_out is None and cell.value is not None]
    joined: dict[str, list[tuple[float, int]]] = {}
    for cell, value in used:
        joined.setdefault(as_key([*cell.place, cell.split]), []).append((value, arms.index(cell.arm)))
    for points in joined.values():
        axes.plot(*zip(*sorted(points, key=lambda point: point[1]), strict=True), color="#b5b5b5", lw=0.9, zorder=1)
    for row, arm in enumerate(comparison.arms):
        values = [value for cell, value in used if cell.arm == arm.arm]
        color = _COLORS[row % len(_COLORS)]
        axes.scatter(values, [row] * len(values), s=34, color=color, edgecolor="white", linewidth=0.7, zorder=3)
        if arm.mean is not None:
            axes.plot([arm.mean] * 2, [row - 0.28, row + 0.28], color=color, linewidth=2.4, zorder=2)
    if comparison.grid:
        axes.set_title(grid_line(comparison.grid), loc="left", fontsize=10, fontweight="bold")
    _as_rows(axes, [f"{caption(str(arm.arm), 60)}  (n = {arm.n})" for arm in comparison.arms], margin=0.06)


def _draw_differences(axes: "Axes", comparison: Comparison) -> None:
    rows = {arm.arm: row for row, arm in enumerate(comparison.arms)}
    axes.axvline(0, color="#555555", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    note(axes, "baseline", (0, 0), (6, 0), fontsize=9, color="#555555")
    for test in comparison.tests:
        row = rows[test.arm]
        color = _COLORS[row % len(_COLORS)]
        if test.difference is None:
            axes.text(0.5, row, "no pairs", transform=axes.get_yaxis_transform(), ha="center", va="center", fontsize=9)
            continue
        if test.low is not None and test.high is not None:
            axes.plot([test.low, test.high], [row, row], color=color, linewidth=2.4, zorder=2)
        axes.scatter([test.difference], [row], s=52, color=color, edgecolor="white", linewidth=0.8, zorder=3)
        text = test.verdict if test.p_holm is None else f"{test.verdict}, {p_value_text(test.p_holm)}"
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        note(axes, text, (test.difference, row), (0, -14), ha="center", va="baseline", fontsize=9, bbox=box, zorder=2)
    _as_rows(axes, [""] * len(rows), margin=0.2)


def _as_rows(axes: "Axes", labels: list[str], margin: float) -> None:
    from matplotlib.ticker import MaxNLocator

    as_rows(axes, labels)
    axes.margins(x=margin)
    axes.tick_params(axis="x", labelbottom=True)
    axes.xaxis.set_major_locator(MaxNLocator(6))
