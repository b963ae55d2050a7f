"""A scaling report as text, as JSON and as a plot. No torch."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plcourse.console.layout import broken, fitted, width
from plcourse.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which people with any common colour blindness can tell apart
_USEFUL, _COMMUNICATION, _REST, _ONE = "#009E73", "#D55E00", "#BBBBBB", "#0072B2"


def as_json(report: dict[str, Any]) -> str:
    """What `--json -` prints."""
    return json.dumps(report, indent=2, default=str) + "\n"


def as_text(report: dict[str, Any]) -> str:
    """The report as `plcourse benchmark scaling` prints it."""
    model = report["model"]
    head = ["", "samples/s", "x one rank", "(range)", "efficiency", "communication", "not shared", "MiB a rank"]
    shares = {share["ranks"]: share for share in report["shares"]}
    rows = []
    for row in report["rows"]:
        speedup, share = row["speedup"], shares.get(row["ranks"])
        rows.append(
            [
                row["job"],
                f"{row['samples_per_second']['median']:,.0f}",
                f"{speedup['median']:.2f}",
                f"{speedup['min']:.2f} to {speedup['max']:.2f}" if row is not report["rows"][0] else "",
                f"{row['efficiency']['median']:.2f}",
                f"{100 * share['communication']['median']:.1f} %" if share else "-",
                f"{100 * share['rest']['median']:.1f} %" if share else "-",
                f"{row['memory_bytes_per_rank'] / 2**20:,.0f}",
            ]
        )
    lines = [
        f"scaling of {report['config']} on {report['device']}: {report['global_batch']} samples a step over all ranks, "
        f"{model['parameters']:,} parameters",
        f"{report['pairs']} rounds of {report['steps']} steps, interleaved; medians of the ratios within a round",
        "",
        *fitted(head, rows, range(1, len(head)), width()),
        "",
        *report["sentences"],
    ]
    return "\n".join(line for each in lines for line in broken(each, width())) + "\n"


def draw(report: dict[str, Any], path: Path) -> None:
    """Writes the plot: on the left the samples per second of every job, on the right where a step's time goes.

    Args:
        report: as `build_report` gives it, with the name of the config.
        path: the PNG file; its folder exists.

    Raises:
        UserError: it cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height = 1.6 + 0.5 * max(len(report["rows"]), len(report["shares"]))
    figure = Figure(figsize=(11, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, gridspec_kw={"wspace": 0.06})
    figure.suptitle(f"{report['config']}, {report['global_batch']} samples a step over all ranks", fontsize=11)
    _draw_rates(left, report)
    _draw_shares(right, report)
    try:
        figure.savefig(path, format="png")
    except OSError as error:
        raise UserError(f"cannot write '{path}': {error.strerror}") from error


def _draw_rates(axes: "Axes", report: dict[str, Any]) -> None:
    rows = report["rows"]
    for at, row in enumerate(rows):
        rate, colour = row["samples_per_second"], _USEFUL if row["ranks"] > 1 else _ONE
        axes.barh(at, rate["median"], height=0.6, color=colour, alpha=0.85)
        axes.plot([rate["min"], rate["max"]], [at, at], color="#222222", linewidth=1.4)
        axes.annotate(
            f"{row['speedup']['median']:.2f} x", (0, at), (6, 0), textcoords="offset points", va="center", color="white"
        )
    axes.set_yticks(range(len(rows)), [row["job"] for row in rows])
    axes.set_xlabel("samples per second: median and range of the rounds")
    axes.set_xlim(left=0)
    _plain(axes, len(rows))


def _draw_shares(axes: "Axes", report: dict[str, Any]) -> None:
    kinds = (("efficiency", "shared work", _USEFUL), ("communication", "communication", _COMMUNICATION))
    kinds = (*kinds, ("rest", "not shared", _REST))
    for at, share in enumerate(report["shares"]):
        start = 0.0
        for key, label, colour in kinds:
            part = share[key]["median"]
            axes.barh(at, part, left=start, height=0.6, color=colour, label=label if at == 0 else None)
            if part > 0.06:
                axes.text(start + part / 2, at, f"{100 * part:.0f} %", ha="center", va="center", fontsize=9)
            start += max(part, 0.0)
    if not report["shares"]:
        axes.text(0.5, 0.5, "one rank: nothing to share", transform=axes.transAxes, ha="center", va="center")
    else:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=9)
    axes.set_yticks(range(len(report["shares"])), [f"{share['ranks']} ranks" for share in report["shares"]])
    axes.set_xlabel("share of a step's time")
    axes.set_xlim(0, 1)
    _plain(axes, max(1, len(report["shares"])))


def _plain(axes: "Axes", rows: int) -> None:
    axes.set_ylim(rows - 0.5, -0.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=9)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.7)
    axes.set_axisbelow(True)
