"""The parts of a run's page with its scores: tiles at the top, and a table for each evaluation."""

from collections.abc import Mapping
from typing import Any

from plcourse.runs.headline import score_of
from plcourse.runs.variants import Evaluation
from plcourse.stats.intervals import wilson
from plcourse.training.variant import said
from plcourse.verbs.report import page

# Fields of an evaluation's file that are not findings.
_NO_FINDINGS = ("metrics", "coverage", "intervals", "settings", "trust", "stage")


def headline_tiles(evaluated: list[Evaluation], record: Mapping[str, Any], summary: dict[str, Any]) -> list[str]:
    """Tiles with the test score and with the best score during training."""
    tiles = []
    test = next((each for each in evaluated if each.stage == "test" and not each.is_variant), None)
    if test is not None and (score := score_of(test, record)):
        interval = _interval(test.content, score[0])
        note = f"{100 * interval[2]:g} % interval {interval[0]:.4f} to {interval[1]:.4f}" if interval else ""
        tiles.append(page.tile(score[0], page.number(score[1]), note))
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


def scores_part(evaluated: list[Evaluation], record: Mapping[str, Any], summary: dict[str, Any]) -> str:
    """A table for each evaluation, first those without changed settings."""
    return "".join(_evaluation(each, record, summary) for each in evaluated)


def _evaluation(evaluation: Evaluation, record: Mapping[str, Any], summary: dict[str, Any]) -> str:
    report, metrics = evaluation.content, evaluation.metrics
    over_folds = (summary.get("metrics") or {}) if not evaluation.is_variant else {}
    rows = []
    ends = {end for name in metrics for end in _logged_ends(metrics, name)}
    for name, value in metrics.items():
        if name in ends:
            continue
        if name in over_folds:  # Wilson's interval would be too narrow: samples of a fold share a model
            rows.append([name, value, over_folds[name].get("low"), over_folds[name].get("high")])
            continue
        interval = _interval(report, name)
        rows.append([name, value, *(interval[:2] if interval else (None, None))])
    coverage = report.get("coverage") or {}
    told = ""
    if coverage:
        told = f": {coverage.get('seen'):,} of {coverage.get('expected'):,} samples seen, "
        told += f"{coverage.get('twice')} twice"
    title = f"Part {evaluation.stage}{f' with {said(evaluation.settings)}' if evaluation.settings else ''}"
    parts = [page.table(["score", "value", "low", "high"], rows, f"{title}{told}; 95 % intervals where there are some")]
    best = record.get("best")
    if report.get("best_step") is not None and isinstance(best, dict) and best.get("step") != report["best_step"]:
        parts.append(
            "<p>The run was trained further after this evaluation and has a new best checkpoint: evaluate it again.</p>"
        )
    parts += [
        found for key, section in report.items() if key not in _NO_FINDINGS and (found := _finding(title, key, section))
    ]
    return "".join(parts)


def _interval(report: dict[str, Any], name: str) -> tuple[float, float, float] | None:
    """Low end, high end and confidence of a score's interval: recorded, logged, or Wilson's for an accuracy."""
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
    """The ends of a score's interval by the names that a callback logged them under; empty without them."""
    names = (f"{name}_low", f"{name}_high")
    return {end: metrics[end] for end in names} if metrics.keys() >= set(names) else {}


def _finding(stage: str, key: str, section: Any) -> str:
    """A finding of an evaluation beside the scores as a table; empty if it has no rows."""
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
    return page.details(title, page.table([name.replace("_", " ") for name in head], cells, title))


def _scalars(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if isinstance(value, str | int | float) or value is None}
