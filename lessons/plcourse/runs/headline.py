"""Chooses the score that represents a run. No torch."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from plcourse.runs.run import Run
from plcourse.runs.variants import Evaluation, evaluations

_FIRST = ("accuracy", "foreground_iou")
# Words in a metric's name that tell which way is better.
_SMALLER = re.compile(
    ".*(loss|error|nll|perplexity|distance|seconds|time)|ece|ppl|mse|mae|rmse|brier|fid|kid|mmd|frechet|latency|bits"
)
_LARGER = re.compile("accuracy|acc|f1|precision|recall|auc|auroc|ap|iou|dice|score|bleu|coverage|throughput|r2")


def headline(metrics: Iterable[str], monitored: str | None = None) -> str | None:
    """Returns the name of the score to show first, None where there is none.

    That is the accuracy, else the IoU, else the metric that the checkpoint was chosen by, else the first that is not a
    baseline's.

    Args:
        metrics: names of one stage, such as ``test/loss``.
        monitored: the metric that the checkpoint was chosen by, such as ``val/loss``.
    """
    names = list(metrics)
    base = {name.partition("/")[2]: name for name in reversed(names)}
    wanted = [*_FIRST, str(monitored).partition("/")[2]]
    found = next((base[each] for each in wanted if each in base), None)
    return found or next((name for name in names if not is_beside(name, names)), next(iter(names), None))


def mode_of(metric: str) -> str | None:
    """Returns `min` or `max`, the direction in which a metric is better by the words of its name; None if unknown."""
    words = re.split(r"[/_\W]+", metric.rpartition("/")[2].lower())
    smaller, larger = (any(map(known.fullmatch, words)) for known in (_SMALLER, _LARGER))
    return None if smaller == larger else "min" if smaller else "max"


def is_beside(name: str, names: Iterable[str]) -> bool:
    """Returns whether a score only accompanies another one.

    It can be that of a baseline, such as ``test/ngram_bits_per_character`` beside ``test/bits_per_character``, a
    difference from a baseline, or the limit of an interval.
    """
    stage, _, base = name.partition("/")
    if base.startswith("minus_") or base.endswith(("_low", "_high", "_p")):
        return True
    others = (other.partition("/")[2] for other in names if other.startswith(f"{stage}/") and other != name)
    return any(base.endswith(f"_{other}") for other in others)


def test_score(run: Run, record: Mapping[str, Any]) -> tuple[str, float] | None:
    """Returns name and value of a run's main test score; None where the run was not tested as it was trained."""
    found = next((each for each in evaluations(run) if each.stage == "test" and not each.is_variant), None)
    return None if found is None else score_of(found, record)


def score_of(evaluation: Evaluation, record: Mapping[str, Any]) -> tuple[str, float] | None:
    """Returns name and value of the main score of an evaluation."""
    best = record.get("best")
    name = headline(evaluation.metrics, best.get("metric") if isinstance(best, dict) else None)
    value = evaluation.metrics.get(name) if name is not None else None
    return (name, value) if name is not None and isinstance(value, int | float) else None
