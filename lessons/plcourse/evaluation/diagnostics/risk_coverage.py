"""What is gained by refusing to answer: the error rate of the samples that the model is surest of, by their share.

The curve is that of El-Yaniv and Wiener 2010 (JMLR 11:1605); the area under it is 0 for a model that puts all its
errors last, and the error rate for one whose scores say nothing.
"""

from pathlib import Path
from typing import Any

import numpy as np

from plcourse.evaluation.diagnostics.drawing import figure, save, tidy
from plcourse.evaluation.diagnostics.per_class import auroc
from plcourse.evaluation.scores import Diagnostic, Scores

_SHARES = (0.5, 0.8, 0.9, 1.0)
_POINTS = 500  # of a drawn curve


class RiskCoverage(Diagnostic):
    """Error rate by share answered, by the confidence and by every uncertainty; ``<stage>-risk_coverage.png``.

    Beside the area there is the chance that an error gets a higher uncertainty than a right answer (``finds_errors``).
    """

    name = "risk_coverage"

    def __call__(self, scores: Scores, folder: Path) -> tuple[dict[str, Any], list[str]]:
        """See `Diagnostic`."""
        doubts = {"1 - confidence": 1 - scores.confidence, **scores.uncertainty}
        wrong = ~scores.correct
        curves = {name: risk_coverage(doubt, wrong) for name, doubt in doubts.items()}
        section = {}
        lines = ["error rate by share answered   " + "".join(f"{share:>8.0%}" for share in _SHARES) + "    area"]
        for name, risk in curves.items():
            at = {share: float(risk[max(0, round(share * len(risk)) - 1)]) for share in _SHARES}
            section[name] = {
                "area": float(risk.mean()),
                "finds_errors": auroc(doubts[name], wrong),
                "error_rate": {f"{share:.0%}": rate for share, rate in at.items()},
            }
            lines.append(
                f"  least {name:<23}" + "".join(f"{rate:>8.4f}" for rate in at.values()) + f"{risk.mean():>8.4f}"
            )
        _draw(curves, folder / f"{scores.stage}-risk_coverage.png")
        return section, lines


def risk_coverage(doubt: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """The error rate of the n least doubtful samples, for n from 1 to N.

    Samples with equal doubt come in no order, so an error among them counts as spread over them.

    Args:
        doubt: float [N].
        wrong: bool [N].

    Returns:
        float64 [N], 0 to 1; the last is the error rate of all.
    """
    order = np.argsort(doubt, kind="stable")
    _, group, n = np.unique(doubt[order], return_inverse=True, return_counts=True)
    share = np.bincount(group, wrong[order]) / n
    return np.cumsum(share[group]) / np.arange(1, len(order) + 1)


def _draw(curves: dict[str, np.ndarray], path: Path) -> None:
    drawn, axes = figure()
    for name, risk in curves.items():
        chosen = np.unique(np.linspace(0, len(risk) - 1, _POINTS).astype(int))
        axes.plot((chosen + 1) / len(risk), risk[chosen], label=f"{name}, area {risk.mean():.4f}", linewidth=1.4)
    axes.set(xlabel="share answered, surest first", ylabel="error rate", title="risk and coverage", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, frameon=False)
    tidy(axes)
    save(drawn, path)
