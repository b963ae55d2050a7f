"""What the diagnostics work on: the predictions of one part, of all processes, in the order of the samples.

Shapes: N samples, K classes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Scores:
    """One row per sample, each once.

    Attributes:
        stage: ``test``.
        label_names: one name per class.
        ids: N names or numbers.
        labels: int64 [N], the truth.
        probability: float64 [N, K], rows that sum to 1.
        uncertainty: float64 [N] by name, such as ``epistemic``; empty where the model gives none.
        metadata: [N] by column, for slices; empty where the data have none.
        temperature: what the log-probabilities are divided by to be calibrated, fitted on the validation part; None
            where there was none.
        pictures: images [H, W] or [H, W, 3] in [0, 1] by row, for the most confident errors.
    """

    stage: str
    label_names: list[str]
    ids: np.ndarray
    labels: np.ndarray
    probability: np.ndarray
    uncertainty: dict[str, np.ndarray] = field(default_factory=dict)
    metadata: dict[str, np.ndarray] = field(default_factory=dict)
    temperature: float | None = None
    pictures: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def predicted(self) -> np.ndarray:
        """int64 [N], the most probable class; of equals the first."""
        return self.probability.argmax(axis=1)

    @property
    def correct(self) -> np.ndarray:
        """bool [N]."""
        return self.predicted == self.labels

    @property
    def confidence(self) -> np.ndarray:
        """float64 [N], the probability of the predicted class."""
        return self.probability.max(axis=1)

    @property
    def cross_entropy(self) -> np.ndarray:
        """float64 [N] in nats, of each sample."""
        chosen = self.probability[np.arange(len(self.labels)), self.labels]
        return -np.log(np.maximum(chosen, np.finfo(np.float32).tiny))


class Diagnostic(ABC):
    """One look at the scores, in a file of its own; `DiagnosticTestLoop` calls it on rank 0.

    Attributes:
        name: its section in ``eval/<split>.json``.
    """

    name: str

    @abstractmethod
    def __call__(self, scores: Scores, folder: Path) -> tuple[dict[str, Any], list[str]]:
        """Looks.

        Args:
            scores: the predictions.
            folder: where plots and tables go; it exists.

        Returns:
            The section, of plain types, and the lines to print.
        """
