"""The results on the page of a run: scores, folds, curves, pictures, scaling, exports. A part without content is ''."""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plcourse.errors import UserError
from plcourse.runs.config_yaml import lookup
from plcourse.runs.record import RunRecord, read_record
from plcourse.runs.run import BENCHMARKS, Run
from plcourse.runs.variants import Evaluation, score_of
from plcourse.stats.intervals import wilson
from plcourse.training.variant import said
from plcourse.verbs.report import page
from plcourse.verbs.report.charts import Line, curve

Content = Mapping[str, Any]  # of a JSON file

# Fields of an evaluation's file that are not findings.
_NO_FINDINGS = ("metrics", "coverage", "intervals", "settings", "trust", "stage")
_COMMON = ("loss", "accuracy", "f1", "iou", "dice", "grad_norm", "lr")  # metrics with one of these words share a chart
_MOST_LINES = 7
_LARGEST_PICTURE = 4 * 2**20
_NUMBERED = re.compile(r"(.*?)-?(\d+)$")
_PICTURES = {
    "test-confusion": "Confusion matrix of the test part: rows are the true classes, columns the predicted ones",
    "test-reliability": "Reliability: how often predictions of each confidence are right, before and after scaling",
    "test-risk_coverage": "Risk and coverage: errors among the samples that the model is surest of",
    "test-errors": "The most confident errors of the test part",
    "test-best": "The test samples that went best; a wrong class is red",
    "test-worst": "The test samples that went worst; a wrong class is red",
    "folds": "Each fold's score, their mean and its corrected interval",
    "pacing": "Pacing: the fraction of the samples that was admitted during training",
    "difficulty": "Difficulty of the samples, as the scorer found it",
    "examples": "Examples from easy to hard",
    "terciles": "Accuracy on the easy, medium and hard third during training",
    "interpolation": "Samples from one seed to the next",
    "samples": "Samples of the generator, always from the same seeds, after epoch",
}


def read_json(path: Path) -> Content:
    """Reads an object from a JSON file; empty without the file."""
    return read_record(path) if path.is_file() else {}


def with_settings(settings: Content) -> str:
    """Changed settings at the end of a title."""
    return f" with {said(settings)}" if settings else ""


def headline_tiles(evaluated: list[Evaluation], record: RunRecord, summary: Content) -> list[str]:
    """Tiles with the test score and with the best score during training."""
    tiles = []
    test = next((each for each in evaluated if each.stage == "test" and not each.is_variant), None)
    if test is not None and (score := score_of(test, record)):
        low, high, confidence = _interval(test.content, score[0])
        note = "" if low is None else f"{100 * confidence:g} % interval {low:.4f} to {high:.4f}"
        tiles.append(page.tile(score[0], page.number(score[1]), note))
    name, value, epoch = (lookup(record, f"best.{key}") for key in ("metric", "value", "epoch"))
    if isinstance(value, int | float):
        over_folds = (summary.get("metrics") or {}).get(str(name)) or {}
        note = f"best, epoch {epoch + 1}" if isinstance(epoch, int) else "best"
        if over_folds.get("low") is not None:
            note = f"mean of the folds, 95 % corrected: {over_folds['low']:.4g} to {over_folds['high']:.4g}"
        tiles.append(page.tile(str(name), page.number(value), note))
    return tiles


def scores(evaluation: Evaluation, record: RunRecord, summary: Content) -> str:
    """A table of an evaluation's scores, then one for each of its findings."""
    content, metrics = evaluation.content, evaluation.metrics
    over_folds = (summary.get("metrics") or {}) if not evaluation.is_variant else {}
    rows = []
    ends = {end for name in metrics for end in _logged_ends(metrics, name)}
    for name in [name for name in metrics if name not in ends]:
        low, high, _ = _interval(content, name)
        if name in over_folds:  # Wilson's interval would be too narrow: samples of a fold share a model
            low, high = over_folds[name].get("low"), over_folds[name].get("high")
        rows.append([name, metrics[name], low, high])
    seen = ""
    if coverage := content.get("coverage"):
        seen = f": {coverage.get('seen'):,} of {coverage.get('expected'):,} samples seen, {coverage.get('twice')} twice"
    title = f"Part {evaluation.stage}{with_settings(evaluation.settings)}"
    parts = [page.table(["score", "value", "low", "high"], rows, f"{title}{seen}; 95 % intervals where there are some")]
    if content.get("best_step") is not None and lookup(record, "best.step") not in (None, content["best_step"]):
        later = "The run was trained further after this evaluation and has a new best checkpoint: evaluate it again."
        parts.append(f"<p>{later}</p>")
    parts += [_finding(title, key, section) for key, section in content.items() if key not in _NO_FINDINGS]
    return "".join(parts)


def _interval(content: Content, name: str) -> tuple[float | None, float | None, float]:
    """Low end, high end and confidence of a score's interval: recorded, logged, or Wilson's for an accuracy."""
    found = (content.get("intervals") or {}).get(name)
    if isinstance(found, dict) and isinstance(found.get("low"), int | float):
        return found["low"], found["high"], content["intervals"].get("confidence", 0.95)
    if logged := _logged_ends(content["metrics"], name):
        low, high = logged.values()
        return low, high, 0.95
    value, n = content["metrics"].get(name), lookup(content, "coverage.seen")
    if name.endswith("/accuracy") and isinstance(value, float) and n and not lookup(content, "coverage.twice"):
        right = round(value * n)
        if 0 <= right <= n and abs(right - value * n) < 0.01:
            return *wilson(right, n), 0.95
    return None, None, 0.95


def _logged_ends(metrics: Content, name: str) -> Content:
    """The ends of a score's interval by the names that a callback logged them under; empty without them."""
    names = (f"{name}_low", f"{name}_high")
    return {end: metrics[end] for end in names} if metrics.keys() >= set(names) else {}


def _finding(stage: str, key: str, section: object) -> str:
    """A finding of an evaluation beside the scores as a table."""
    title = f"{stage}, {key.replace('_', ' ')}"
    if key == "confusion" or not isinstance(section, dict):
        return ""  # the matrix is among the pictures
    rows: list[Content] = []
    for name, value in section.items():
        if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            rows += [_scalars(each) for each in value]
        elif isinstance(value, dict) and _scalars(value):
            rows.append({"": name, **_scalars(value)})
    head = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[row.get(name) for name in head] for row in rows]
    return page.details(title, page.table([name.replace("_", " ") for name in head], cells, title))


def _scalars(row: Content) -> Content:
    return {name: value for name, value in row.items() if isinstance(value, str | int | float) or value is None}


def folds(summary: Content) -> str:
    """The mean of each score over the folds, then every fold."""
    every, metrics = summary.get("folds"), summary.get("metrics")
    if not isinstance(every, list) or not isinstance(metrics, dict) or not every:
        return ""
    head = ["score", "mean", "sd", "low", "high", "uncorrected low", "uncorrected high"]
    keys = ("mean", "sd", "low", "high", "naive_low", "naive_high")
    rows = [[name, *(found.get(key) for key in keys)] for name, found in metrics.items()]
    caption = "Mean over the folds with its 95 % interval, corrected for the samples that the folds share"
    names = list(every[0])
    table = page.table(names, [[fold.get(name) for name in names] for fold in every], "Each fold: samples and scores")
    return page.table(head, rows, caption) + page.details(f"all {len(every)} folds", table)


def curves(run: Run, best_step: int | None) -> str:
    """A chart of each metric, or of several alike, over the steps."""
    of_folds = sorted((run.path / "folds").glob("*/metrics.csv"))
    groups: dict[str, list[Line]] = {}
    for rows in [Run(path.parent).metrics for path in of_folds] or [run.metrics]:
        series: dict[str, list[tuple[int, float]]] = {}
        for row in rows:
            series.setdefault(row["metric"], []).append((row["step"], row["value"]))
        for name, points in series.items():
            groups.setdefault(_group(name), []).append(Line(name, *zip(*points, strict=True)))
    drawn = []
    for key in sorted(groups, key=lambda key: (_COMMON.index(key) if key in _COMMON else 2.5, key)):
        names = list(dict.fromkeys(line.name for line in groups[key]))
        for start in range(0, len(names), _MOST_LINES):
            some = names[start : start + _MOST_LINES]
            lines = [line for line in groups[key] if line.name in some]
            drawn.append(curve(key, lines, None if of_folds else best_step))
    if not any(drawn):
        return ""
    several = f" One line for each of {len(of_folds)} folds." if of_folds else ""
    note = f"Every value as it was logged; nothing is smoothed.{several}"
    return f'<p class="meta">{note}</p><div class="charts">{"".join(drawn)}</div>'


def _group(metric: str) -> str:
    """Returns the chart of a metric, by a common word in its name or else by its name."""
    base = metric.partition("/")[2] or metric
    return next((word for word in _COMMON if f"_{word}_" in f"_{base}_"), base)


def pictures(plots: Path, evaluated: list[Evaluation]) -> str:
    """The run's plots, then those of evaluations with changed settings."""
    return _pictures(plots) + "".join(
        f"<h3>{page.text(f'Part {each.stage}{with_settings(each.settings)}')}</h3>{found}"
        for each in evaluated
        if each.is_variant and (found := _pictures(each.file.with_suffix("") / "plots"))
    )


def _pictures(folder: Path) -> str:
    """The plots in a folder; of a numbered series the first, the middle and the last."""
    series: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.png")):
        found = _NUMBERED.fullmatch(path.stem)
        series.setdefault(found[1] if found else path.stem, []).append(path)
    parts = []
    for name, paths in series.items():
        chosen = paths if len(paths) < 4 else [paths[0], paths[len(paths) // 2], paths[-1]]
        for path in chosen:
            words = _PICTURES.get(path.stem) or _PICTURES.get(name) or name.replace("_", " ").replace("-", " ")
            if len(paths) > 1:
                words += f" {path.stem[len(name) :].lstrip('-')} (file {paths.index(path) + 1} of {len(paths)})"
            if path.stat().st_size > _LARGEST_PICTURE or not page.is_png(path):
                parts.append(f"<p>{page.text(words)}: in {page.text(path.name)}, too large or not a picture.</p>")
            else:
                parts.append(page.picture(path, words))
    return f'<div class="pictures">{"".join(parts)}</div>' if parts else ""


def scaling(run: Path, config: str) -> str:
    """The newest finished `plcourse benchmark scaling` of a config below the root of the run."""
    above = run.resolve().parents
    files = above[2].glob(f"{BENCHMARKS}/scaling/*/scaling.json") if len(above) > 2 else ()
    for file in sorted(files, reverse=True):
        report: Content = {}
        with contextlib.suppress(UserError):  # a broken file must not hide the others
            report = read_record(file)
        if (report.get("status"), report.get("config")) != ("finished", config) or not report.get("rows"):
            continue
        rows = [
            [
                row["job"],
                row["samples_per_second"]["median"],
                *(row["speedup"][key] for key in ("median", "low", "high")),
                row["efficiency"]["median"],
                row["memory_bytes_per_rank"] / 2**20,
            ]
            for row in report["rows"]
        ]
        head = ["job", "samples/s", "times one rank", "low", "high", "efficiency", "MiB a rank"]
        caption = f"{report['global_batch']} samples a step over all ranks, {report['pairs']} interleaved rounds; "
        caption += "medians of the ratios within a round, with 95 % intervals"
        parts = [
            *(f"<p>{page.text(sentence)}</p>" for sentence in report["sentences"]),
            page.table(head, rows, caption),
        ]
        plot = file.with_suffix(".png")
        if plot.is_file() and not plot.is_symlink() and page.is_png(plot):
            parts.append(page.picture(plot, "Scaling: samples per second of each job, and where a step's time goes"))
        return "".join(parts)
    return ""


def exports(file: Path) -> str:
    """A table of the exported files: how far each is from the trained model, and how fast."""
    rows, sizes = [], []
    for name, row in (read_json(file).get("rows") or {}).items():
        batches = row.get("batches") or {}
        sizes = max(sizes, list(batches), key=len)
        deviations = [each["max_deviation"] for each in batches.values() if each.get("max_deviation") is not None]
        score = float(row["score"]) if row.get("score") else lookup(row, "metric.exported")
        first = [name, str(row.get("status", "-")), row.get("bytes"), max(deviations, default=None), score]
        rows.append([*first, *(each.get("p50_ms") for each in batches.values())])
    head = ["format", "status", "bytes", "largest deviation", "score", *(f"ms at {size}" for size in sizes)]
    cells = [[*row, *[None] * (len(head) - len(row))] for row in rows]
    return page.table(head, cells, "Exported files compared with the trained model; median milliseconds per batch")
