"""Prints the score of each arm of a finished sweep by the size of its training part, with intervals and cost.

The interval of a size is Student's t over seeds. `plcourse compare SWEEP --grid_by data.init_args.train_size` tests the
differences; this script shows the curves.

    python scripts/benchmarks/label_efficiency.py sweeps/generative_or_discriminative [--output curves.png]
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from scipy.stats import t

from plcourse.console.figures import new_figure, save, tidy
from plcourse.runs.folders import find_folder
from plcourse.runs.run import Run, runs_root
from plcourse.training.checkpoint import load

SIZE = "data.init_args.train_size"


def main() -> None:
    """Prints a row for each arm and size, and draws the curves if a file is named."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sweep", help="folder of the sweep, or its name below the root of all runs")
    parser.add_argument("--metric", default="test/accuracy")
    parser.add_argument("--output", type=Path, help="PNG file for the curves")
    options = parser.parse_args()
    folder = next(
        (found for each in (Path(), runs_root()) if (found := find_folder(each / options.sweep, "sweep.json"))), None
    )
    if folder is None:
        parser.error(f"no sweep {options.sweep}")
    rows = summary(folder, options.metric)
    print(f"| arm | training texts | {options.metric}, mean | 95 % interval | seeds | training, s | parameters |")
    print("|---|---|---|---|---|---|---|")
    for (arm, size), row in sorted(rows.items()):
        print(
            f"| {arm} | {size:,} | {row['mean']:.4f} | {row['low']:.4f} to {row['high']:.4f} | {row['seeds']} | "
            f"{row['seconds']:.0f} | {row['parameters']:,} |"
        )
    if options.output is not None:
        draw(rows, options.metric, options.output)


def summary(folder: Path, metric: str) -> dict[tuple[str, int], dict[str, Any]]:
    """Returns mean, interval and cost of the finished cells by arm and training size."""
    cells = json.loads((folder / "sweep.json").read_text())["cells"]
    runs: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for cell in cells:
        if cell["status"] == "finished":
            runs[cell["arm"], cell["grid"][SIZE]].append(Run(folder / cell["run"]))
    return {key: _row(group, metric) for key, group in runs.items()}


def _row(runs: list[Run], metric: str) -> dict[str, Any]:
    scores = [run.eval(metric.partition("/")[0])["metrics"][metric] for run in runs]
    mean, n = statistics.mean(scores), len(scores)
    half = t.ppf(0.975, n - 1) * statistics.stdev(scores) / n**0.5 if n > 1 else float("nan")
    weights = load(runs[0].checkpoint("best"))["state_dict"]
    return {
        "mean": mean,
        "low": mean - half,
        "high": mean + half,
        "seeds": n,
        "seconds": statistics.median(run.record["training_seconds"] for run in runs),
        "parameters": sum(value.numel() for name, value in weights.items() if name.startswith("network.")),
    }


def draw(rows: dict[tuple[str, int], dict[str, Any]], metric: str, path: Path) -> None:
    """Draws a curve for each arm, with intervals as bars."""
    figure = new_figure(6, 4, dpi=120)
    axes = figure.subplots()
    for shift, arm in enumerate(sorted({arm for arm, _ in rows})):
        sizes = sorted(size for name, size in rows if name == arm)
        means = [rows[arm, size]["mean"] for size in sizes]
        halves = [rows[arm, size]["high"] - rows[arm, size]["mean"] for size in sizes]
        beside = [size * 1.04**shift for size in sizes]  # so that the bars of the arms do not overlap
        axes.errorbar(beside, means, halves, marker="o", capsize=4, label=arm)
    axes.set(xscale="log", xlabel="training texts", ylabel=metric)
    axes.legend(frameon=False)
    tidy(axes)
    save(figure, path)


if __name__ == "__main__":
    main()
