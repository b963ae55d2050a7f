"""The page of one run: what ran, how it scored, its curves and pictures, and how to have it again."""

import json
import math
import re
import shlex
from datetime import datetime
from pathlib import Path
from typing import Any

from plcourse.catalog import LESSONS
from plcourse.core.errors import UserError
from plcourse.core.intervals import wilson
from plcourse.core.look import duration
from plcourse.core.report import page
from plcourse.core.report.charts import Line, curve
from plcourse.core.report.scaling_part import scaling_part
from plcourse.core.runs import Run, status_of

_SHARED = ("loss", "accuracy", "f1", "iou", "dice", "grad_norm", "lr")  # metrics of these words share a chart
_MOST_LINES = 7
_LARGEST_PICTURE = 4 * 2**20
_NUMBERED = re.compile(r"(.*?)-?(\d+)$")
_PICTURES = {
    "test-confusion": "Confusion matrix of the test part: rows are the true classes, columns the predicted ones",
    "test-reliability": "Reliability: how often predictions of each confidence are right, before and after scaling",
    "test-risk_coverage": "Risk and coverage: errors among the samples that the model is surest of",
    "test-errors": "The most confident errors of the test part",
    "test-best": "The test samples that went best: the image, its true mask and the predicted one, laid over it",
    "test-worst": "The test samples that went worst: the image, its true mask and the predicted one, laid over it",
    "folds": "Each fold's score, their mean and its corrected interval",
    "pacing": "Pacing: the share of the samples that was admitted over the training",
    "difficulty": "Difficulty of the samples, as the scorer found it",
    "examples": "Examples from easy to hard",
    "terciles": "Accuracy on the easy, medium and hard third over the training",
    "interpolation": "Samples from one seed to the next",
}

_SERIES = {"samples": "Samples of the generator, always from the same seeds, after epoch"}


def run_page(run: Run) -> str:
    """The page of a run as HTML.

    Raises:
        UserError: the run's record or table cannot be read.
    """
    record = run.record
    evaluations = _evaluations(run)
    summary = _json(run.path / "summary.json")
    sections = [
        page.section("scores", "Scores", _scores(evaluations, summary)),
        page.section("folds", "Folds", _folds(summary)),
        page.section("curves", "Curves", _curves(run, record)),
        page.section("pictures", "Pictures", _pictures(run.path / "plots")),
        page.section("scaling", "Scaling", scaling_part(run.path, str(record.get("config")))),
        page.section("exports", "Exports", _exports(run.path / "export" / "verification.json")),
        page.section("config", "Config", _config(run)),
        page.section("environment", "Environment", _environment(record)),
        page.section("repeat", "How to repeat it", _repeat(run, record)),
    ]
    title = f"{record.get('config') or 'run'}, {run.path.resolve().name}"
    return page.document(title, _header(run, record, evaluations, summary), sections, footer(record))


def footer(record: dict[str, Any]) -> str:
    """What wrote the page."""
    version = (record.get("versions") or {}).get("plcourse")
    return f"<p>Written by <code>plcourse report</code>{f', plcourse {page.text(version)}' if version else ''}.</p>"


def when(moment: Any) -> str:
    """A time of a record as a person reads it."""
    try:
        return datetime.fromisoformat(moment).strftime("%Y-%m-%d %H:%M")
    except (TypeError, ValueError):
        return "–"  # noqa: RUF001  (a dash on purpose)


def _header(run: Run, record: dict[str, Any], evaluations: dict[str, Any], summary: dict[str, Any]) -> str:
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
    tiles = [*_headline(evaluations, record, summary), page.tile("took", duration(record.get("seconds")))]
    if isinstance(record.get("steps"), int):
        tiles.append(page.tile("optimizer steps", f"{record['steps']:,}"))
    if record.get("seed") is not None:
        tiles.append(page.tile("seed", str(record["seed"])))
    return "".join([*lines, f'<ul class="tiles">{"".join(tiles)}</ul>'])


def _headline(evaluations: dict[str, Any], record: dict[str, Any], summary: dict[str, Any]) -> list[str]:
    """The tiles of the test part's first score and of the best score while training."""
    tiles = []
    test = evaluations.get("test")
    if test:
        metrics = test["metrics"]
        name = next((name for name in metrics if name.endswith("/accuracy")), next(iter(metrics), None))
        if name is not None:
            interval = _interval(test, name)
            note = f"{100 * interval[2]:g} % interval {interval[0]:.4f} to {interval[1]:.4f}" if interval else ""
            tiles.append(page.tile(name, page.number(metrics[name]), note))
    best = record.get("best")
    if isinstance(best, dict) and isinstance(best.get("value"), int | float):
        name = str(best.get("metric"))
        found = (summary.get("metrics") or {}).get(name) or {}
        if found.get("low") is not None:
            note = f"mean of the folds, 95 % corrected: {found['low']:.4g} to {found['high']:.4g}"
        else:
            note = f"best, epoch {best['epoch'] + 1}" if isinstance(best.get("epoch"), int) else "best"
        tiles.append(page.tile(name, page.number(best["value"]), note))
    return tiles


def _interval(report: dict[str, Any], name: str) -> tuple[float, float, float] | None:
    """Low, high and coverage of a score's interval: what the evaluation found or logged, or Wilson's for a share."""
    found = (report.get("intervals") or {}).get(name)
    if isinstance(found, dict) and isinstance(found.get("low"), int | float):
        return found["low"], found["high"], report["intervals"].get("confidence", 0.95)
    if logged := _logged_ends(report["metrics"], name):
        low, high = logged.values()
        return low, high, 0.95
    value, n = report["metrics"].get(name), (report.get("coverage") or {}).get("seen")
    if not name.endswith("/accuracy") or not isinstance(value, float) or not n or report["coverage"].get("twice"):
        return None
    right = round(value * n)
    return (*wilson(right, n), 0.95) if 0 <= right <= n and abs(right - value * n) < 0.01 else None


def _logged_ends(metrics: dict[str, Any], name: str) -> dict[str, Any]:
    """Low and high of a score's interval by the names that a callback logged them under; empty where it did not."""
    names = (f"{name}_low", f"{name}_high")
    return {end: metrics[end] for end in names} if metrics.keys() >= set(names) else {}


def _evaluations(run: Run) -> dict[str, Any]:
    """The newest evaluation of each part; older ones stay in their files."""
    found = {path.stem: _json(path) for path in sorted((run.path / "eval").glob("*.json"))}
    return {
        stage: report
        for stage, report in found.items()
        if isinstance(report.get("metrics"), dict) and not re.search(r"-\d+$", stage)
    }


def _scores(evaluations: dict[str, Any], summary: dict[str, Any]) -> str:
    over_folds = summary.get("metrics") or {}
    parts = []
    for stage, report in evaluations.items():
        rows = []
        ends = {end for name in report["metrics"] for end in _logged_ends(report["metrics"], name)}
        for name, value in report["metrics"].items():
            if name in ends:
                continue
            if name in over_folds:  # samples of one fold share a model, so that Wilson's interval would be too narrow
                rows.append([name, value, over_folds[name].get("low"), over_folds[name].get("high")])
                continue
            interval = _interval(report, name)
            rows.append([name, value, *(interval[:2] if interval else (None, None))])
        coverage = report.get("coverage") or {}
        said = ""
        if coverage:
            said = f": {coverage.get('seen'):,} of {coverage.get('expected'):,} samples seen, "
            said += f"{coverage.get('twice')} twice"
        head = ["score", "value", "low", "high"]
        parts.append(page.table(head, rows, f"Part {stage}{said}; 95 % intervals where there are some"))
        parts += [
            found
            for key, section in report.items()
            if key not in ("metrics", "coverage", "intervals") and (found := _finding(stage, key, section))
        ]
    return "".join(parts)


def _finding(stage: str, key: str, section: Any) -> str:
    """What an evaluation found beside the scores, as a table wherever it has the form of one."""
    title = f"{stage}, {key.replace('_', ' ')}"
    if key == "confusion" or not isinstance(section, dict):
        return ""  # the matrix is among the pictures
    rows: list[dict[str, Any]] = []
    for name, value in section.items():
        if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            rows += [_scalars(each) for each in value]
        elif isinstance(value, dict) and _scalars(value):
            rows.append({"": name, **_scalars(value)})
    if not rows:
        return ""
    head = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[row.get(name) for name in head] for row in rows]
    return page.folded(title, page.table([name.replace("_", " ") for name in head], cells, title))


def _scalars(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if isinstance(value, str | int | float) or value is None}


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
    return page.table(head, rows, caption) + page.folded(
        f"all {len(folds)} folds", page.table(names, each, "Each fold: samples and scores")
    )


def _curves(run: Run, record: dict[str, Any]) -> str:
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
    for key in sorted(groups, key=lambda key: (_SHARED.index(key) if key in _SHARED else 2.5, key)):
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
    """The chart that a metric belongs into: that of its word where many have it, else one of its own name."""
    base = metric.partition("/")[2] or metric
    return next((word for word in _SHARED if f"_{word}_" in f"_{base}_"), base)


def _pictures(folder: Path) -> str:
    """The run's plots; of a numbered series the first, the middle and the last."""
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
                parts.append(f"<p>{page.text(words)}: in {page.text(path.name)}, too large or no picture.</p>")
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
    return page.table(head, cells, "Exported files, held against the trained model; median milliseconds per batch")


def _config(run: Run) -> str:
    try:
        source = run.config_path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return page.folded("config.yaml, complete", page.code(source))


def _environment(record: dict[str, Any]) -> str:
    hardware, git = record.get("hardware") or {}, record.get("git")
    pairs = [*(record.get("versions") or {}).items()]
    pairs += [(name, hardware.get(name)) for name in ("platform", "cpu", "cores")]
    pairs.append(("memory, GiB", hardware.get("memory_gib")))
    if isinstance(git, dict):
        pairs.append(("git commit", f"{git.get('commit')}{', with changes' if git.get('dirty') else ''}"))
    pairs += [("training seconds", record.get("training_seconds")), ("began", when(record.get("created")))]
    return page.facts([(name, value) for name, value in pairs if value not in (None, "")])


def _repeat(run: Run, record: dict[str, Any]) -> str:
    folder = shlex.quote(str(run.path))
    lines = []
    if isinstance(record.get("command"), str):
        lines += ["# as it was typed", record["command"], ""]
    lines += [
        "# from the run's own folder, every default written out",
        f"plcourse fit -c {shlex.quote(str(run.config_path))}",
    ]
    lines += ["", "# score and predict with its best checkpoint", f"plcourse test --run {folder}"]
    return page.code("\n".join([*lines, f"plcourse predict --run {folder}"]))


def _json(path: Path) -> dict[str, Any]:
    """A file's object, empty where there is none."""
    try:
        found = json.loads(path.read_bytes(), parse_constant=lambda _: math.nan)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read '{path}': {error}") from error
    return found if isinstance(found, dict) else {}
