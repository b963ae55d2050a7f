"""Is a prediction with probability 0.8 right in 8 of 10 cases?

The expected calibration error is the mean distance between confidence and accuracy over bins of confidence (Naeini et
al. 2015; equation 3 of Guo et al. 2017, arXiv 1706.04599). Temperature scaling divides the log-probabilities by one
number that is fitted on the validation split (section 4.2 there). It changes confidences but never a prediction.

Shapes: N samples, K classes.
"""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from plcourse.console.figures import new_figure, save, tidy
from plcourse.evaluation.scores import Diagnostic, Finding, Scores, cross_entropy, log_probability

_FEW = 10  # bins with fewer samples get a faint line but no marker
_COLORS = "#1f4e79", "#c8553d"  # before and after scaling
_LOG_RANGE = 4.0  # temperatures from 1/55 to 55; a fit at either end means that no temperature helps


class Calibration(Diagnostic):
    """Calibration error, Brier score and loss before and after temperature scaling, with a reliability diagram.

    Args:
        n_bins: number of equally wide confidence bins, 2 or more.
    """

    name = "calibration"

    def __init__(self, n_bins: int = 15) -> None:
        if n_bins < 2:
            raise ValueError(f"n_bins={n_bins}: give 2 or more")
        self.n_bins = n_bins

    def __call__(self, scores: Scores, folder: Path) -> Finding:
        """Computes the section ``calibration`` and draws ``<stage>-reliability.png``."""
        versions = {"as predicted": scores.probability}
        if scores.temperature is not None:
            versions["scaled"] = scaled(scores.probability, scores.temperature)
        bins = {version: reliability(each, scores.labels, self.n_bins) for version, each in versions.items()}
        errors = {version: expected_calibration_error(table) for version, table in bins.items()}
        section: dict[str, Any] = {"n_bins": self.n_bins, "temperature": scores.temperature}
        for version, probability in versions.items():
            section[version.replace(" ", "_")] = {
                "ece": errors[version],
                "brier": brier(probability, scores.labels),
                "loss": float(cross_entropy(probability, scores.labels).mean()),
                "bins": [
                    {"n": int(n), "confidence": float(c) if n else None, "accuracy": float(a) if n else None}
                    for n, c, a in bins[version]
                ],
            }
        _draw(bins, errors, folder / f"{scores.stage}-reliability.png")
        line = "  calibration error {ece:.4f}, Brier {brier:.4f}".format(**section["as_predicted"])
        if scores.temperature is not None:
            line += "; {ece:.4f} and {brier:.4f}".format(**section["scaled"])
            line += f" at temperature {scores.temperature:.3f}, fitted on the validation split"
        return section, [line]


def fit_temperature(probability: np.ndarray, labels: np.ndarray) -> float:
    """Finds the temperature with the smallest loss: above 1 for an overconfident model, below 1 for the opposite."""
    log_NK = log_probability(probability)

    def loss(log_temperature: float) -> float:
        scaled_NK = log_softmax(log_NK / np.exp(log_temperature), axis=1)
        return -float(scaled_NK[np.arange(len(labels)), labels].mean())

    found: Any = minimize_scalar(loss, bounds=(-_LOG_RANGE, _LOG_RANGE), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def scaled(probability: np.ndarray, temperature: float) -> np.ndarray:
    """Divides the log-probabilities [N, K] by a temperature and normalizes again."""
    return softmax(log_probability(probability) / temperature, axis=1)


def reliability(probability: np.ndarray, labels: np.ndarray, n_bins: int) -> np.ndarray:
    """Sample count, mean confidence and accuracy of each bin [n_bins, 3]; the means of an empty bin are nan.

    A bin includes its upper end, as in Guo et al. 2017.
    """
    confidence, correct = probability.max(axis=1), probability.argmax(axis=1) == labels
    which = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    n = np.bincount(which, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(which, values, minlength=n_bins) / n for values in (confidence, correct)]
    return np.column_stack([n, *means])


def expected_calibration_error(bins: np.ndarray) -> float:
    """The distance between confidence and accuracy, averaged over the samples: 0 to 1."""
    n, confidence, accuracy = bins[bins[:, 0] > 0].T
    return float(np.average(np.abs(confidence - accuracy), weights=n))


def brier(probability: np.ndarray, labels: np.ndarray) -> float:
    """The squared distance to the one-hot label, summed over the classes (Brier 1950): 0 to 2."""
    truth = np.eye(probability.shape[1])[labels]
    return float(((probability - truth) ** 2).sum(axis=1).mean())


def _draw(bins: dict[str, np.ndarray], errors: dict[str, float], path: Path) -> None:
    figure = new_figure(4.6, 5.4)
    above, below = figure.subplots(2, gridspec_kw={"height_ratios": (3, 1)}, sharex=True)
    above.plot([0, 1], [0, 1], color="gray", linewidth=1, linestyle="--", label="perfect")
    edges = np.linspace(0, 1, len(next(iter(bins.values()))) + 1)
    for (version, table), color, marker in zip(bins.items(), _COLORS, "os", strict=False):
        label = f"{version}, error {errors[version]:.3f}"
        filled, many = table[table[:, 0] > 0], table[table[:, 0] >= _FEW]
        above.plot(filled[:, 1], filled[:, 2], color=color, linewidth=1, alpha=0.4)
        above.plot(many[:, 1], many[:, 2], color=color, marker=marker, markersize=5, linestyle="", label=label)
        below.stairs(table[:, 0], edges, color=color)
    above.set(ylabel="accuracy", ylim=(0, 1.02), xlim=(0, 1.01), title="reliability")
    above.legend(fontsize=8, loc="upper left", frameon=False)
    below.set(xlabel="confidence", ylabel="samples", yscale="log", ylim=(0.8, None))
    tidy(above)
    tidy(below)
    save(figure, path)
