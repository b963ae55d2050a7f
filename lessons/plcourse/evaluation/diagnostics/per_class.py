"""Precision, recall, F1 and AUROC of each class against all others."""

from pathlib import Path
from typing import Any

import numpy as np

from plcourse.evaluation.scores import Diagnostic, Finding, Scores

_PRINTED = 20  # classes; the JSON has all of them
_METRICS = ("precision", "recall", "f1", "auroc")


class PerClass(Diagnostic):
    """The scores of each class; an undefined one, such as the recall of a class without samples, is None."""

    name = "per_class"

    def __call__(self, scores: Scores, folder: Path) -> Finding:
        """Computes the section ``per_class``."""
        from sklearn.metrics import precision_recall_fscore_support  # slow to import

        names = scores.label_names
        found: Any = precision_recall_fscore_support(
            scores.labels,
            scores.predicted,
            labels=range(len(names)),
            zero_division=np.nan,  # pyright: ignore[reportArgumentType]  (annotated as a str only)
        )
        section: dict[str, dict[str, int | float | None]] = {}
        for k, (name, *values, n) in enumerate(zip(names, *found, strict=True)):
            defined = [None if np.isnan(value) else float(value) for value in values]
            area = auroc(scores.probability[:, k], scores.labels == k)
            section[name] = {"n": int(n), **dict(zip(_METRICS, [*defined, area], strict=True))}
        width = max(5, *map(len, names))
        lines = [f"  {'class':<{width}}  {'n':>6}  precision  recall     f1  auroc"]
        for name in names[:_PRINTED]:
            row = section[name]
            precision, recall, f1, area = ("none" if row[each] is None else f"{row[each]:.3f}" for each in _METRICS)
            lines.append(f"  {name:<{width}}  {row['n']:>6}  {precision:>9}  {recall:>6}  {f1:>5}  {area:>5}")
        return section, lines


def auroc(score: np.ndarray, positive: np.ndarray) -> float | None:
    """The probability that a positive has a higher score [N] than a negative; ties count half (Hanley and McNeil 1982).

    None if there is no positive or no negative.
    """
    from sklearn.metrics import roc_auc_score

    if positive.all() or not positive.any():
        return None
    return float(roc_auc_score(positive, score))
