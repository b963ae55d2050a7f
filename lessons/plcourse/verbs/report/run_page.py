"""The page of one run: its scores, curves and pictures, and the commands to repeat it."""

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from plcourse.catalog import LESSONS
from plcourse.console import duration
from plcourse.errors import UserError
from plcourse.runs.record import status_of
from plcourse.runs.run import Run
from plcourse.runs.variants import Evaluation, evaluations
from plcourse.training.variant import said
from plcourse.verbs.report import page
from plcourse.verbs.report.charts import Line, curve
from plcourse.verbs.report.repeat_part import predictions_part, repeat_part
from plcourse.verbs.report.scaling_part import scaling_part
from plcourse.verbs.report.scores_part import headline_tiles, scores_part

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
}

_SERIES = {"samples": "Samples of the generator, always from the same seeds, after epoch"}


def run_page(run: Run) -> str:
    """The page of a run as HTML.

    Raises:
        UserError: the run's record or table cannot be read.
    """
    record = run.record
    found = evaluations(run)
    summary = _json(run.path / "summary.json")
    sections = [
        ("scores", "Scores", scores_part(found, record, summary)),
        ("folds", "Folds", _folds(summary)),
        ("predictions", "Predictions", predictions_part(run)),
        ("curves", "Curves", _curves(run, record)),
        ("pictures", "Pictures", _all_pictures(run, found)),
        ("scaling", "Scaling", scaling_part(run.path, str(record.get("config")))),
        ("exports", "Exports", _exports(run.path / "export" / "verification.json")),
        ("config", "Config", _config(run)),
        ("environment", "Environment", _environment(record)),
        ("repeat", "How to repeat it", repeat_part(run, found, record)),
    ]
    title = f"{record.get('config') or 'run'}, {run.path.resolve().name}"
    return page.document(title, _header(run, record, found, summary), sections, footer(record))


def footer(record: Mapping[str, Any]) -> str:
    """The last line of the page, with the version that wrote it."""
    version = (record.get("versions") or {}).get("plcourse")
    return f"<p>Written by <code>plcourse report</code>{f', plcourse {page.text(version)}' if version else ''}.</p>"


def when(moment: Any) -> str:
    """Formats a time of a record for a reader."""
    try:
        return datetime.fromisoformat(moment).strftime("%Y-%m-%d %H:%M")
    except (TypeError, ValueError):
        return "–"  # noqa: RUF001  (an en dash on purpose)


def _header(run: Run, record: Mapping[str, Any], found: list[Evaluation], summary: dict[str, Any]) -> str:
    name = str(record.get("config") or "run")
    lesson = next((each for each in LESSONS if each.key == name.partition("/")[0]), None)
    kicker = f"Lesson {lesson.number}: {lesson.title}" if lesson else "A run of plcourse"
    status = status_of(record)
    kind = page.text(status) if status.isalpha() else "unreadable"
    lines = [
        f'<p class="kicker">{page.text(kicker)}</p><h1>{page.text(name)}</h1>',
        f'<p class="meta"><span class="status {kind}">{page.text(status)}</span> '
        f"{page.text(record.get('verb') or '')}, {when(record.get('created'))}</p>",
    ]
    if record.get("error"):
        lines.append(f'<p class="problem">{page.text(record["error"])}</p>')
    tiles = [*headline_tiles(found, record, summary), page.tile("took", duration(record.get("seconds")))]
    if isinstance(record.get("steps"), int):
        tiles.append(page.tile("optimizer steps", f"{record['steps']:,}"))
    if record.get("seed") is not None:
        tiles.append(page.tile("seed", str(record["seed"])))
    return "".join([*lines, f'<ul class="tiles">{"".join(tiles)}</ul>'])


def _folds(summary: dict[str, Any]) -> str:
    folds, metrics = summary.get("folds"), summary.get("metrics")
    if not isinstance(folds, list) or not isinstance(metrics, dict) or not folds:
        return ""
    head = ["score", "mean", "sd", "low", "high", "uncorrected low", "uncorrected high"]
    keys = ("mean", "sd", "low", "high", "naive_low", "naive_high")
    rows = [[name, *(found.get(key) for key in keys)] for name, found in metrics.items()]
    caption = "Mean over the folds with its 95 % interval, corrected for the samples that the folds share"
    names = list(folds[0])
    each = [[fold.get(name) for name in names] for fold in folds]
    return page.table(head, rows, caption) + page.details(
        f"all {len(folds)} folds", page.table(names, each, "Each fold: samples and scores")
    )


def _curves(run: Run, record: Mapping[str, Any]) -> str:
    folds = sorted((run.path / "folds").glob("*/metrics.csv"))
    tables = [Run(path.parent).metrics for path in folds] or [run.metrics]
    groups: dict[str, list[Line]] = {}
    for rows in tables:
        series: dict[str, list[tuple[int, float]]] = {}
        for row in rows:
            series.setdefault(row["metric"], []).append((row["step"], row["value"]))
        for name, points in series.items():
            steps, values = zip(*points, strict=True)
            groups.setdefault(_group(name), []).append(Line(name, steps, values))
    best = record.get("best")
    mark = best.get("step") if isinstance(best, dict) and not folds else None
    drawn = []
    for key in sorted(groups, key=lambda key: (_COMMON.index(key) if key in _COMMON else 2.5, key)):
        lines = groups[key]
        names = list(dict.fromkeys(line.name for line in lines))
        for start in range(0, len(names), _MOST_LINES):
            some = names[start : start + _MOST_LINES]
            drawn.append(curve(key, [line for line in lines if line.name in some], mark))
    if not any(drawn):
        return ""
    said = "Every value as it was logged; nothing is smoothed."
    if folds:
        said += f" One line for each of {len(folds)} folds."
    return f'<p class="meta">{said}</p><div class="charts">{"".join(drawn)}</div>'


def _group(metric: str) -> str:
    """The chart of a metric: that of a common word in its name, else one with its own name."""
    base = metric.partition("/")[2] or metric
    return next((word for word in _COMMON if f"_{word}_" in f"_{base}_"), base)


def _all_pictures(run: Run, evaluated: list[Evaluation]) -> str:
    """The run's plots, then those of evaluations with changed settings."""
    others = [(each, _pictures(each.file.with_suffix("") / "plots")) for each in evaluated if each.is_variant]
    parts = [
        f"<h3>{page.text(f'Part {each.stage} with {said(each.settings)}')}</h3>{found}"
        for each, found in others
        if found
    ]
    return "".join([_pictures(run.path / "plots"), *parts])


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
            words = _PICTURES.get(path.stem) or _SERIES.get(name) or name.replace("_", " ").replace("-", " ")
            if len(paths) > 1:
                words += f" {path.stem[len(name) :].lstrip('-')} (file {paths.index(path) + 1} of {len(paths)})"
            if path.stat().st_size > _LARGEST_PICTURE or not page.is_png(path):
                parts.append(f"<p>{page.text(words)}: in {page.text(path.name)}, too large or not a picture.</p>")
            else:
                parts.append(page.picture(path, words))
    return f'<div class="pictures">{"".join(parts)}</div>' if parts else ""


def _exports(file: Path) -> str:
    rows = []
    for name, row in (_json(file).get("rows") or {}).items():
        batches = row.get("batches") or {}
        speed = [batches[size].get("p50_ms") for size in batches]
        deviation = [each.get("max_deviation") for each in batches.values() if each.get("max_deviation") is not None]
        score = float(row["score"]) if row.get("score") else (row.get("metric") or {}).get("exported")
        row_of = [name, str(row.get("status", "-")), row.get("bytes"), max(deviation, default=None), score, *speed]
        rows.append((list(batches), row_of))
    if not rows:
        return ""
    sizes = max((sizes for sizes, _ in rows), key=len)
    head = ["format", "status", "bytes", "largest deviation", "score", *(f"ms at {size}" for size in sizes)]
    cells = [[*row, *[None] * (len(head) - len(row))] for _, row in rows]
    return page.table(head, cells, "Exported files compared with the trained model; median milliseconds per batch")


def _config(run: Run) -> str:
    try:
        source = run.config_path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return page.details("config.yaml, complete", page.code(source))


def _environment(record: Mapping[str, Any]) -> str:
    hardware, git = record.get("hardware") or {}, record.get("git")
    pairs = [*(record.get("versions") or {}).items()]
    pairs += [(name, hardware.get(name)) for name in ("platform", "cpu", "cores")]
    pairs.append(("memory, GiB", hardware.get("memory_gib")))
    if isinstance(git, dict):
        pairs.append(("git commit", f"{git.get('commit')}{', with changes' if git.get('dirty') else ''}"))
    pairs += [("training seconds", record.get("training_seconds")), ("began", when(record.get("created")))]
    return page.facts([(name, value) for name, value in pairs if value not in (None, "")])


def _json(path: Path) -> dict[str, Any]:
    """Reads an object from a JSON file; empty without the file."""
    try:
        found = json.loads(path.read_bytes(), parse_constant=lambda _: math.nan)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read '{path}': {error}") from error
    return found if isinstance(found, dict) else {}
