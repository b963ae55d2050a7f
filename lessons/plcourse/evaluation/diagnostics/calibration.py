"""Does a prediction with probability 0.8 come true in 8 of 10 cases?

The expected calibration error is the mean distance between confidence and accuracy over bins of confidence (Naeini et
al. 2015; equation 3 of Guo et al. 2017, arXiv 1706.04599). Temperature scaling divides the log-probabilities by one
number fitted on the validation part (section 4.2 there): it moves confidences and never a prediction.

Shapes: N samples, K classes.
"""

from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from plcourse.evaluation.diagnostics.drawing import INK, SECOND, figure, save, tidy
from plcourse.evaluation.scores import Diagnostic, Scores

_FEW = 10  # a bin with fewer samples is drawn as a faint line only
_LOG_RANGE = 4.0  # temperatures from 1/55 to 55; a fit at either end says that nothing fits


class Calibration(Diagnostic):
    """Calibration error, Brier score and loss, as predicted and after temperature scaling; a reliability diagram.

    Args:
        n_bins: equally wide bins of confidence, 2 or more.
    """

    name = "calibration"

    def __init__(self, n_bins: int = 15) -> None:
        if n_bins < 2:
            raise ValueError(f"n_bins={n_bins}: give 2 or more")
        self.n_bins = n_bins

    def __call__(self, scores: Scores, folder: Path) -> tuple[dict[str, Any], list[str]]:
        """See `Diagnostic`."""
        versions = {"as predicted": scores.probability}
        if scores.temperature is not None:
            versions["scaled"] = scaled(scores.probability, scores.temperature)
        section: dict[str, Any] = {"n_bins": self.n_bins, "temperature": scores.temperature}
        bins = {}
        for version, probability in versions.items():
            bins[version] = reliability(probability, scores.labels, self.n_bins)
            section[version.replace(" ", "_")] = {
                "ece": expected_calibration_error(bins[version]),
                "brier": brier(probability, scores.labels),
                "loss": float(_losses(probability, scores.labels).mean()),
                "bins": [
                    {"n": int(n), "confidence": float(c) if n else None, "accuracy": float(a) if n else None}
                    for n, c, a in bins[version]
                ],
            }
        _draw(
            bins, {v: section[v.replace(" ", "_")]["ece"] for v in versions}, folder / f"{scores.stage}-reliability.png"
        )
        ece, score = section["as_predicted"]["ece"], section["as_predicted"]["brier"]
        line = f"  calibration error {ece:.4f}, Brier {score:.4f}"
        if scores.temperature is not None:
            line += f"; {section['scaled']['ece']:.4f} and {section['scaled']['brier']:.4f}"
            line += f" at temperature {scores.temperature:.3f}, fitted on the validation part"
        return section, [line]


def fit_temperature(probability: np.ndarray, labels: np.ndarray) -> float:
    """The temperature with the smallest loss.

    Args:
        probability: [N, K].
        labels: int64 [N].

    Returns:
        Above 1 for a model that is too sure of itself, below 1 for one that is not sure enough.
    """
    log_NK = _log(probability)

    def loss(log_temperature: float) -> float:
        scaled_NK = log_softmax(log_NK / np.exp(log_temperature), axis=1)
        return -float(scaled_NK[np.arange(len(labels)), labels].mean())

    found: Any = minimize_scalar(loss, bounds=(-_LOG_RANGE, _LOG_RANGE), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def scaled(probability: np.ndarray, temperature: float) -> np.ndarray:
    """The probabilities [N, K] whose logarithms are divided by the temperature."""
    return softmax(_log(probability) / temperature, axis=1)


def reliability(probability: np.ndarray, labels: np.ndarray, n_bins: int) -> np.ndarray:
    """Samples, mean confidence and accuracy of each bin [n_bins, 3]; nan where a bin is empty.

    A bin holds its upper end, as in Guo et al. 2017.
    """
    confidence, correct = probability.max(axis=1), probability.argmax(axis=1) == labels
    which = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    n = np.bincount(which, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        means = [np.bincount(which, values, minlength=n_bins) / n for values in (confidence, correct)]
    return np.column_stack([n, *means])


def expected_calibration_error(bins: np.ndarray) -> float:
    """The distance of confidence and accuracy, averaged over the samples: 0 to 1."""
    filled = bins[bins[:, 0] > 0]
    return float((filled[:, 0] * np.abs(filled[:, 1] - filled[:, 2])).sum() / filled[:, 0].sum())


def brier(probability: np.ndarray, labels: np.ndarray) -> float:
    """The squared distance to the truth, summed over the classes (Brier 1950): 0 to 2."""
    truth = np.eye(probability.shape[1])[labels]
    return float(((probability - truth) ** 2).sum(axis=1).mean())


def _log(probability: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probability, np.finfo(np.float32).tiny))


def _losses(probability: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return -_log(probability)[np.arange(len(labels)), labels]


def _draw(bins: dict[str, np.ndarray], errors: dict[str, float], path: Path) -> None:
    drawn, (above, below) = figure(4.6, 5.4, nrows=2, gridspec_kw={"height_ratios": (3, 1)}, sharex=True)
    above.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--", label="perfect")
    n_bins = len(next(iter(bins.values())))
    left = np.arange(n_bins) / n_bins
    for (version, table), colour, marker in zip(bins.items(), (INK, SECOND), "os", strict=False):
        filled = table[:, 0] > 0
        label = f"{version}, error {errors[version]:.3f}"
        above.plot(table[filled, 1], table[filled, 2], color=colour, linewidth=1, alpha=0.4)
        many = table[:, 0] >= _FEW
        above.plot(table[many, 1], table[many, 2], color=colour, marker=marker, markersize=5, linestyle="", label=label)
        below.stairs(table[:, 0], [*left, 1.0], color=colour)
    above.set(ylabel="accuracy", ylim=(0, 1.02), xlim=(0, 1.01), title="reliability")
    above.legend(fontsize=8, loc="upper left", frameon=False)
    below.set(xlabel="confidence", ylabel="samples", yscale="log", ylim=(0.8, None))
    tidy(above)
    tidy(below)
    save(drawn, path)
