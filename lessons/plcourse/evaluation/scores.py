"""What the diagnostics read: the test predictions of all processes, in sample order.

Shapes: N samples, K classes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Finding = tuple[dict[str, Any], list[str]]  # a section of ``eval/<split>.json``, of plain types, and lines to print


@dataclass
class Scores:
    """The predictions for one split, each sample once."""

    stage: str  # test
    label_names: list[str]  # K class names
    ids: np.ndarray  # [N], names or numbers
    labels: np.ndarray  # int64 [N], the true classes
    probability: np.ndarray  # float64 [N, K]; rows sum to 1
    uncertainty: dict[str, np.ndarray] = field(default_factory=dict)  # float64 [N] by name, such as epistemic
    metadata: dict[str, np.ndarray] = field(default_factory=dict)  # [N] by column, for slicing
    temperature: float | None = None  # fitted on the validation split, if there is one
    # images [H, W] or [H, W, 3] in [0, 1] of the most confident errors, by row
    pictures: dict[int, np.ndarray] = field(default_factory=dict)

    @property
    def predicted(self) -> np.ndarray:
        """int64 [N], the most probable class; the first one on ties."""
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
        """float64 [N], in nats."""
        return cross_entropy(self.probability, self.labels)


class Diagnostic(ABC):
    """One way to examine a test; `DiagnosticTestLoop` calls it on rank 0.

    Attributes:
        name: its section in ``eval/<split>.json``.
    """

    name: str

    @abstractmethod
    def __call__(self, scores: Scores, folder: Path) -> Finding:
        """Examines the scores and writes plots and tables into ``folder``, which exists."""


def log_probability(probability: np.ndarray) -> np.ndarray:
    """The logarithm, finite also for a probability of 0."""
    return np.log(np.maximum(probability, np.finfo(np.float32).tiny))


def cross_entropy(probability: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """float64 [N] in nats, from probabilities [N, K] and true classes [N]."""
    return -log_probability(probability[np.arange(len(labels)), labels])
