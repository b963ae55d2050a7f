"""Precision, recall, F1 and AUROC of each class against all others."""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from plcourse.evaluation.diagnostics.confusion import confusion_matrix
from plcourse.evaluation.scores import Diagnostic, Finding, Scores

_PRINTED = 20  # classes; the JSON has all of them


class PerClass(Diagnostic):
    """The scores of each class; an undefined one, such as the recall of a class without samples, is None."""

    name = "per_class"

    def __call__(self, scores: Scores, folder: Path) -> Finding:
        """Computes the section ``per_class``."""
        matrix_KK = confusion_matrix(scores)
        hits, truths, guesses = np.diag(matrix_KK), matrix_KK.sum(axis=1), matrix_KK.sum(axis=0)
        section = {}
        for k, label in enumerate(scores.label_names):
            section[label] = {
                "n": int(truths[k]),
                "precision": _fraction(hits[k], guesses[k]),
                "recall": _fraction(hits[k], truths[k]),
                "f1": _fraction(2 * hits[k], truths[k] + guesses[k]),
                "auroc": auroc(scores.probability[:, k], scores.labels == k),
            }
        return section, _table(section)


def auroc(score: np.ndarray, positive: np.ndarray) -> float | None:
    """The probability that a positive scores higher than a negative; ties count half (Hanley and McNeil 1982).

    Args:
        score: [N], higher for positives.
        positive: bool [N].

    Returns:
        0 to 1; None if there is no positive or no negative.
    """
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return None
    above = rankdata(score)[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(above / (n_positive * n_negative))


def _fraction(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _table(section: dict[str, dict[str, Any]]) -> list[str]:
    width = max(5, *map(len, section))
    lines = [f"  {'class':<{width}}  {'n':>6}  precision  recall     f1  auroc"]
    for label, row in list(section.items())[:_PRINTED]:
        values = (row["precision"], row["recall"], row["f1"], row["auroc"])
        precision, recall, f1, area = ("none" if value is None else f"{value:.3f}" for value in values)
        lines.append(f"  {label:<{width}}  {row['n']:>6}  {precision:>9}  {recall:>6}  {f1:>5}  {area:>5}")
    return lines
