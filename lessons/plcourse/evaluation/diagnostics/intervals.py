"""How far the test metrics may be off because the test set is finite."""

from pathlib import Path
from typing import Any

import numpy as np

from plcourse.evaluation.diagnostics.confusion import confusion_matrix
from plcourse.evaluation.scores import Diagnostic, Finding, Scores
from plcourse.stats.bootstrap import bootstrap_interval
from plcourse.stats.intervals import wilson

_DRAWS = 200_000_000  # values drawn per interval at most, which takes seconds


class Intervals(Diagnostic):
    """Intervals of accuracy, macro F1 and loss for the same model on other test samples.

    Accuracy and loss are means over the samples and get BCa bootstrap intervals. An accuracy of 0 or 1 gets Wilson's
    interval, since all its resamples are equal. F1 depends on the confusion matrix alone, and the matrix of a resample
    is a multinomial draw. So the matrix is drawn, at a cost that does not depend on the number of samples, and F1 gets
    a percentile interval. No interval leaves the range of its metric.

    Args:
        confidence: coverage, between 0 and 1.
        n_resamples: bootstrap resamples, 100 or more; very large test sets get fewer.
        seed: seed of the resampling.
    """

    name = "intervals"

    def __init__(self, confidence: float = 0.95, n_resamples: int = 9999, seed: int = 0) -> None:
        if not 0 < confidence < 1 or n_resamples < 100:
            raise ValueError(f"confidence={confidence}, n_resamples={n_resamples}: give 0 to 1, and 100 or more")
        self.confidence, self.n_resamples, self.seed = confidence, n_resamples, seed

    def __call__(self, scores: Scores, folder: Path) -> Finding:
        """Computes the section ``intervals``; it is empty for fewer than 2 samples."""
        if len(scores.labels) < 2:
            return {}, []
        matrix_KK = confusion_matrix(scores)
        found = {
            "accuracy": (float(scores.correct.mean()), self._of_accuracy(scores.correct)),
            "f1": (float(macro_f1(matrix_KK[None])[0]), self._of_f1(matrix_KK)),
            "loss": (float(scores.cross_entropy.mean()), self._of_mean(scores.cross_entropy)),
        }
        section: dict[str, Any] = {"confidence": self.confidence}
        lines = []
        for metric, (value, (low, high)) in found.items():
            section[f"{scores.stage}/{metric}"] = {"value": value, "low": low, "high": high}
            lines.append(f"  {scores.stage}/{metric:<8}  {value:.4f}  {self.confidence:.0%} {low:.4f} to {high:.4f}")
        return section, lines

    def _of_accuracy(self, correct: np.ndarray) -> tuple[float, float]:
        if correct.all() or not correct.any():
            return wilson(int(correct.sum()), len(correct), self.confidence)
        return self._of_mean(correct.astype(np.float64))

    def _of_mean(self, values: np.ndarray) -> tuple[float, float]:
        resamples = max(199, min(self.n_resamples, _DRAWS // len(values)))
        return bootstrap_interval(values, confidence=self.confidence, n_resamples=resamples, seed=self.seed)

    def _of_f1(self, matrix_KK: np.ndarray) -> tuple[float, float]:
        n, k = int(matrix_KK.sum()), len(matrix_KK)
        draws = np.random.default_rng(self.seed).multinomial(n, matrix_KK.ravel() / n, size=self.n_resamples)
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(macro_f1(draws.reshape(-1, k, k)), [tail, 1 - tail])
        return float(low), float(high)


def macro_f1(matrices_RKK: np.ndarray) -> np.ndarray:
    """The class average of F1 for R confusion matrices [R]; classes that never occur are left out."""
    hits = np.diagonal(matrices_RKK, axis1=1, axis2=2)
    marks = matrices_RKK.sum(axis=1) + matrices_RKK.sum(axis=2)
    f1_RK = 2 * hits / np.maximum(marks, 1)
    return f1_RK.sum(axis=1) / (marks > 0).sum(axis=1)
