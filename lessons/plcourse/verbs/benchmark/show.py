"""Shows the result of a scaling benchmark as text and as a plot. No torch."""

from pathlib import Path
from typing import TYPE_CHECKING

from plcourse.console.figures import as_rows, new_figure, note, save
from plcourse.console.layout import broken, fitted, width
from plcourse.verbs.benchmark.result import ScalingResult, sentences

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The colors of Okabe and Ito, which people with any common color blindness can tell apart.
_USEFUL, _COMMUNICATION, _REST, _ONE = "#009E73", "#D55E00", "#BBBBBB", "#0072B2"


def as_text(result: ScalingResult) -> str:
    """The result as `plcourse benchmark scaling` prints it."""
    head = ["", "samples/s", "x one rank", "(range)", "efficiency", "communication", "not shared", "MiB a rank"]
    splits = {split.ranks: split for split in result.splits}
    rows = []
    for row in result.rows:
        speedup, split = row.speedup, splits.get(row.ranks)
        rows.append(
            [
                row.job,
                f"{row.samples_per_second.median:,.0f}",
                f"{speedup.median:.2f}",
                f"{speedup.min:.2f} to {speedup.max:.2f}" if row is not result.rows[0] else "",
                f"{row.efficiency.median:.2f}",
                f"{100 * split.communication.median:.1f} %" if split else "-",
                f"{100 * split.rest.median:.1f} %" if split else "-",
                f"{row.memory_bytes_per_rank / 2**20:,.0f}",
            ]
        )
    lines = [
        f"scaling of {result.config} on {result.device}: {result.global_batch} samples a step over all ranks, "
        f"{result.model.parameters:,} parameters",
        f"{result.pairs} rounds of {result.steps} steps, interleaved; medians of the ratios within a round",
        "",
        *fitted(head, rows, range(1, len(head)), width()),
        "",
        *sentences(result),
    ]
    return "\n".join(line for each in lines for line in broken(each, width())) + "\n"


def draw(result: ScalingResult, path: Path) -> None:
    """Writes a PNG: the samples per second of every job on the left, where a step's time goes on the right."""
    figure = new_figure(11, 1.6 + 0.5 * max(len(result.rows), len(result.splits)))
    left, right = figure.subplots(1, 2, gridspec_kw={"wspace": 0.06})
    figure.suptitle(f"{result.config}, {result.global_batch} samples a step over all ranks", fontsize=11)
    _draw_rates(left, result)
    _draw_splits(right, result)
    save(figure, path)


def _draw_rates(axes: "Axes", result: ScalingResult) -> None:
    for at, row in enumerate(result.rows):
        rate, color = row.samples_per_second, _USEFUL if row.ranks > 1 else _ONE
        axes.barh(at, rate.median, height=0.6, color=color, alpha=0.85)
        axes.plot([rate.min, rate.max], [at, at], color="#222222", linewidth=1.4)
        note(axes, f"{row.speedup.median:.2f} x", (0, at), (6, 0), color="white")
    axes.set_xlabel("samples per second: median and range of the rounds")
    axes.set_xlim(left=0)
    as_rows(axes, [row.job for row in result.rows])


def _draw_splits(axes: "Axes", result: ScalingResult) -> None:
    for at, split in enumerate(result.splits):
        start = 0.0
        for part, label, color in (
            (split.efficiency.median, "shared work", _USEFUL),
            (split.communication.median, "communication", _COMMUNICATION),
            (split.rest.median, "not shared", _REST),
        ):
            axes.barh(at, part, left=start, height=0.6, color=color, label=label if at == 0 else None)
            if part > 0.06:
                axes.text(start + part / 2, at, f"{100 * part:.0f} %", ha="center", va="center", fontsize=9)
            start += max(part, 0.0)
    if result.splits:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=9)
    else:
        axes.text(0.5, 0.5, "one rank: nothing to share", transform=axes.transAxes, ha="center", va="center")
    axes.set_xlabel("fraction of a step's time")
    axes.set_xlim(0, 1)
    as_rows(axes, [f"{split.ranks} ranks" for split in result.splits])
