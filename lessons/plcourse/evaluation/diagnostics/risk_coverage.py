"""What a model gains by declining to answer: its error rate on the fraction of samples it is most certain about.

The curve is that of El-Yaniv and Wiener 2010 (JMLR 11:1605). The area under it is near 0 if all errors come last, and
equals the error rate if the uncertainty says nothing about errors.
"""

from pathlib import Path

import numpy as np

from plcourse.console.figures import new_figure, save, tidy
from plcourse.evaluation.diagnostics.per_class import auroc
from plcourse.evaluation.scores import Diagnostic, Finding, Scores

_FRACTIONS = (0.5, 0.8, 0.9, 1.0)
_POINTS = 500  # of a drawn curve


class RiskCoverage(Diagnostic):
    """Error rate by fraction answered, ordered by confidence and by each uncertainty; ``<stage>-risk_coverage.png``.

    ``finds_errors`` is the probability that an error has a higher uncertainty than a correct answer.
    """

    name = "risk_coverage"

    def __call__(self, scores: Scores, folder: Path) -> Finding:
        """Computes the section ``risk_coverage`` and draws the curves."""
        uncertainties = {"1 - confidence": 1 - scores.confidence, **scores.uncertainty}
        wrong = ~scores.correct
        curves = {name: risk_coverage(values, wrong) for name, values in uncertainties.items()}
        section = {}
        lines = ["error rate by fraction answered" + "".join(f"{each:>8.0%}" for each in _FRACTIONS) + "    area"]
        for name, risk in curves.items():
            rates = [float(risk[max(0, round(each * len(risk)) - 1)]) for each in _FRACTIONS]
            section[name] = {
                "area": float(risk.mean()),
                "finds_errors": auroc(uncertainties[name], wrong),
                "error_rate": {f"{each:.0%}": rate for each, rate in zip(_FRACTIONS, rates, strict=True)},
            }
            lines.append(f"  least {name:<23}" + "".join(f"{rate:>8.4f}" for rate in (*rates, risk.mean())))
        _draw(curves, folder / f"{scores.stage}-risk_coverage.png")
        return section, lines


def risk_coverage(uncertainty: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """The error rate float64 [N] of the n least uncertain samples, for n from 1 to N; ``wrong`` is bool [N].

    Samples with equal uncertainty have no order, so each counts with the mean error rate of its group.
    """
    order = np.argsort(uncertainty, kind="stable")
    _, group, n = np.unique(uncertainty[order], return_inverse=True, return_counts=True)
    rate = np.bincount(group, wrong[order]) / n
    return np.cumsum(rate[group]) / np.arange(1, len(order) + 1)


def _draw(curves: dict[str, np.ndarray], path: Path) -> None:
    figure = new_figure(5, 4.2)
    axes = figure.subplots()
    for name, risk in curves.items():
        chosen = np.unique(np.linspace(0, len(risk) - 1, _POINTS).astype(int))
        axes.plot((chosen + 1) / len(risk), risk[chosen], label=f"{name}, area {risk.mean():.4f}", linewidth=1.4)
    axes.set(xlabel="fraction answered, most certain first", ylabel="error rate", title="risk and coverage")
    axes.set(xlim=(0, 1), ylim=(0, None))
    axes.legend(fontsize=8, frameon=False)
    tidy(axes)
    save(figure, path)
