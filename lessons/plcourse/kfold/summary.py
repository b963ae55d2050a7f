"""Summarizes the folds: mean, spread and interval of each score, a plot, and the out-of-fold predictions."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import TypedDict

import pyarrow as pa
from pytorch_lightning.loggers import Logger

from plcourse.console import say
from plcourse.console.figures import new_figure, save
from plcourse.console.layout import broken, fitted, width
from plcourse.files import write_json
from plcourse.kfold.fold_run import FoldRun, write_table
from plcourse.kfold.folds import Plan
from plcourse.runs.recorder import shortest
from plcourse.runs.run import OUT_OF_FOLD, Run
from plcourse.stats.intervals import within
from plcourse.stats.significance import corrected_resampled_t_test, paired_t_test

CONFIDENCE = 0.95


class Estimate(TypedDict):
    """The mean, standard deviation and intervals of the scores of n folds; all but the mean are None for one fold."""

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    naive_low: float | None
    naive_high: float | None


def estimate(metric: str, scores: Sequence[float], test_train_ratio: float) -> Estimate:
    """Mean, standard deviation and interval of the scores of n folds.

    The interval is Student's with n - 1 degrees of freedom and a variance of the mean of (1/n + n_test/n_train) sd^2
    (Nadeau and Bengio 2003, section 5). The naive one uses sd^2 / n, as if the folds shared no training samples, and is
    too narrow. Both are clipped to the range of the metric, such as 0 to 1 for an accuracy.
    """
    zeros = [0.0] * len(scores)
    corrected = corrected_resampled_t_test(scores, zeros, test_train_ratio, CONFIDENCE)
    naive = paired_t_test(scores, zeros, CONFIDENCE)
    mean, sd = fmean(scores), stdev(scores) if len(scores) > 1 else None
    low, high = within(metric, corrected.low, corrected.high, mean)
    naive_low, naive_high = within(metric, naive.low, naive.high, mean)
    return {"mean": mean, "sd": sd, "low": low, "high": high, "naive_low": naive_low, "naive_high": naive_high}


class SummaryTable(TypedDict):
    """The content of ``summary.json``."""

    folds: list[dict[str, float]]
    metrics: dict[str, Estimate]
    test_train_ratio: float
    confidence: float
    plan: dict[str, object]


class Summary:
    """The results of a cross-validation; the folds are compared by ``monitor``, where ``mode`` is max or min."""

    def __init__(self, plan: Plan, folds: Sequence[FoldRun], monitor: str, mode: str) -> None:
        self.plan, self.folds, self.monitor, self.mode = plan, folds, monitor, mode

    def best_fold(self) -> FoldRun | None:
        """The finished fold with a checkpoint and the best score, the first of equals; None if there is none."""
        sign = -1 if self.mode == "max" else 1
        trained = [fold for fold in self.folds if fold.is_finished and fold.best]
        return min(trained, key=lambda fold: sign * fold.scores.get(self.monitor, math.inf), default=None)

    def line(self, fold: FoldRun) -> str:
        """The line to print when a fold has ended."""
        scores = fold.scores
        if self.monitor not in scores:
            return "  ".join(f"{name} {value:.4g}" for name, value in scores.items())
        so_far = [other.scores[self.monitor] for other in self.folds if other.is_finished]
        return f"{self.monitor} {scores[self.monitor]:.4g}  (mean of {len(so_far)}: {fmean(so_far):.4g})"

    def table(self) -> SummaryTable:
        """The scores of all folds, and what follows from them."""
        rows = [
            {"fold": fold.fold.number, "repeat": fold.fold.repeat, **fold.fold.sizes, **fold.scores}
            for fold in self.folds
        ]
        names = [name for name in self.folds[0].scores if all(name in row for row in rows)]
        ratio = fmean(row["n_val"] / row["n_train"] for row in rows)
        return {
            "folds": rows,
            "metrics": {name: estimate(name, [row[name] for row in rows], ratio) for name in names},
            "test_train_ratio": ratio,
            "confidence": CONFIDENCE,
            "plan": self.plan.terms,
        }

    def conclude(self, folder: Path, loggers: Iterable[Logger]) -> None:
        """Writes and prints the summary of all folds, on the first rank."""
        table = self.table()
        for logger in loggers:
            for fold in self.folds:
                logger.log_metrics({"epoch": fold.fold.number, **fold.scores}, step=fold.fold.number)
        parts = [part for fold in self.folds if (part := fold.out_of_fold) is not None]
        if len(parts) == len(self.folds):
            write_table(folder / "predictions" / OUT_OF_FOLD, pa.concat_tables(parts))
        else:
            say("no out-of-fold predictions: they need batches with 'id' and 'label' and one call of forward per step")
        write_json(folder / "summary.json", table)
        if (folder / "run.json").is_file():
            run = Run(folder)
            steps = sum(fold.run.record.get("steps") or 0 for fold in self.folds)
            sizes = {**(run.record.get("data") or {}), **self.folds[0].fold.sizes}
            mean = table["metrics"].get(self.monitor)
            best = mean and {"metric": self.monitor, "value": shortest(mean["mean"])}
            run.update(best=best, steps=steps, data=sizes)
        if table["metrics"]:
            plot(table, folder / "plots" / "folds.png")
        say("\n".join(self._lines(table)))

    def _lines(self, table: SummaryTable) -> list[str]:
        metrics, folds = table["metrics"], table["folds"]
        train, held_out = (_range([fold[key] for fold in folds]) for key in ("n_train", "n_val"))
        rows: list[tuple[str, Sequence[float | None]]] = [
            (str(fold["fold"]), [fold[name] for name in metrics]) for fold in folds
        ]
        rows.append(("mean", [found["mean"] for found in metrics.values()]))
        if len(folds) > 1:
            rows.append(("sd", [found["sd"] for found in metrics.values()]))
        cells = [[f"  {name}", *(f"{value:.4g}" for value in values)] for name, values in rows]
        lines = [
            f"\n{len(folds)} folds of {self.plan.samples:,} samples, {train} for training and {held_out} held out",
            *fitted(("  fold", *metrics), cells, limit=width()),
        ]
        for name, found in metrics.items():
            if len(folds) > 1 and found["low"] is not None:
                interval = f"{100 * CONFIDENCE:g} % interval {found['low']:.4g} to {found['high']:.4g}"
                naive = f"{found['naive_low']:.4g} to {found['naive_high']:.4g}"
                line = f"  {name}: {found['mean']:.4g}, {interval} (uncorrected, too narrow: {naive})"
                lines += broken(line, width(), "    ")
        return lines


def _range(counts: Sequence[float]) -> str:
    """The count of all folds, or the smallest and the largest if they differ."""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def plot(table: SummaryTable, path: Path) -> None:
    """Draws a panel per metric: the folds as dots, their mean as a line, the corrected interval as a band."""
    metrics = table["metrics"]
    wide = 3.4 * len(metrics)
    figure = new_figure(wide, 3.2, dpi=120, layout=None)
    # fixed margins in inches: a layout engine draws everything twice, which takes as long as a short fold
    margins = {"left": 0.85 / wide, "right": 1 - 0.1 / wide, "bottom": 0.16, "top": 0.88, "wspace": 0.36}
    panels = figure.subplots(1, len(metrics), squeeze=False, gridspec_kw=margins)[0]
    numbers = [row["fold"] for row in table["folds"]]
    for panel, (name, found) in zip(panels, metrics.items(), strict=True):
        if found["low"] is not None:
            panel.axhspan(found["low"], found["high"], color="tab:blue", alpha=0.15, label="95 % interval, corrected")
        panel.axhline(found["mean"], color="tab:blue", linewidth=1, label="mean")
        panel.plot(numbers, [row[name] for row in table["folds"]], "o", color="black", markersize=4, label="fold")
        panel.set(xlabel="fold", ylabel=name)
        panel.xaxis.get_major_locator().set_params(integer=True, nbins=5)
        panel.yaxis.get_major_locator().set_params(nbins=5)  # drawing tick labels takes most of the time
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=3, fontsize="small", frameon=False)
    path.parent.mkdir(exist_ok=True)
    save(figure, path)
