"""Baselines that a model should beat: the most frequent class and a linear model, scored on the same test samples.

They are fitted on the training part, without augmentation, and draw none of the run's random numbers. Large data are
subsampled so that this takes seconds, and the result says so.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from plcourse.data.loader import BatchLoader
from plcourse.data.masks import IGNORE
from plcourse.errors import UserError

TRAIN_LIMIT = 2_000  # samples to fit on
TEST_LIMIT = 10_000  # samples to score
FEATURE_LIMIT = 1_024  # larger images are averaged over squares
_CHUNK = 256
_WEIGHT = 0.1  # C of the logistic regression, 1 / alpha of the ridge regression


@dataclass(frozen=True)
class Baselines:
    """The scores of the baselines.

    `values` has the scores by metric, such as ``test/accuracy``, and name: ``majority`` and ``linear``; for errors of
    values ``mean`` and ``linear``; for masks ``majority``, the most frequent class at each pixel.
    """

    values: dict[str, dict[str, float]]
    fitted_on: int  # number of training samples used, of `n_train`
    n_train: int
    scored_on: int  # number of test samples used, of `n_test`
    n_test: int
    features: int  # values per sample that the linear model gets

    def section(self) -> dict[str, Any]:
        """Returns the content for ``eval/test.json``."""
        counts = ("fitted_on", "n_train", "scored_on", "n_test", "features")
        return {**self.values, **{name: getattr(self, name) for name in counts}}

    def lines(self) -> list[str]:
        """Returns the lines that the test prints."""
        notes = []
        if any("linear" in found for found in self.values.values()):
            notes.append(f"linear in {self.features:,} standardized features")
        if self.fitted_on < self.n_train:
            notes.append(f"fitted on {self.fitted_on:,} of {self.n_train:,} training samples")
        if self.scored_on < self.n_test:
            notes.append(f"scored on {self.scored_on:,} of {self.n_test:,} test samples")
        scores = [
            f"  {metric}: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items())
            for metric, found in self.values.items()
        ]
        return ["baselines" + (f" ({'; '.join(notes)})" if notes else ""), *scores]


def find_baselines(data: Any, metrics: Mapping[str, float]) -> Baselines | None:
    """Fits and scores the baselines of a test.

    Args:
        data: the data module of the test, whose loaders are `BatchLoader`.
        metrics: the scores of the model.

    Returns:
        None if there is no accuracy, error or IoU, or if the samples have no features.
    """
    if hasattr(getattr(data, "splits", None), "texts"):
        return None  # texts have another baseline, and neither pixels nor columns
    if data is None or not {"test/accuracy", "test/rmse", "test/foreground_iou"}.intersection(metrics):
        return None
    try:
        # data of a user may have no training part in a test, so it is asked for last
        if (test := plain_samples(data.test_dataloader())) is None:
            return None
        if (train := plain_samples(data.train_dataloader())) is None:
            return None
        known, asked = _read(train, TRAIN_LIMIT), _read(test, TEST_LIMIT)
    except UserError:
        return None  # the training data no longer exist
    if known is None or asked is None:
        return None
    values: dict[str, dict[str, float]] = {}
    if "test/accuracy" in metrics:
        values["test/accuracy"] = _accuracies(known, asked)
    if "test/rmse" in metrics:
        values["test/rmse"] = _errors(known, asked)
    if "test/foreground_iou" in metrics and known.masks is not None and asked.masks is not None:
        values["test/foreground_iou"] = {"majority": _iou_by_place(known.masks, asked.masks)}
    counts = (len(known.labels), len(train), len(asked.labels), len(test))
    return Baselines(values, *counts, known.features.shape[1]) if values else None


@dataclass(frozen=True)
class _Samples:
    """Features float64 [N, F], labels [N], and masks int64 [N, H, W] if there are any."""

    features: np.ndarray
    labels: np.ndarray
    masks: np.ndarray | None


def plain_samples(loader: object) -> Any:
    """Returns the samples of one of the suite's loaders, without augmentation; None for another loader."""
    if not isinstance(loader, BatchLoader):
        return None
    data: Any = loader.data
    plain = getattr(data, "plain", None)
    return data if plain is None else plain()


def _read(samples: Any, limit: int) -> _Samples | None:
    """Reads at most ``limit`` samples, evenly spaced; returns None if they have no features or no labels."""
    indices = np.arange(len(samples))
    if len(indices) > limit:
        indices = np.linspace(0, len(indices) - 1, limit).round().astype(np.int64)
    columns: dict[str, list[np.ndarray]] = {"features": [], "label": [], "mask": []}
    for start in range(0, len(indices), _CHUNK):
        batch = samples.fetch(indices[start : start + _CHUNK], 0)
        x = batch.get("image", batch.get("features"))
        if not isinstance(x, torch.Tensor) or "label" not in batch:
            return None
        columns["features"].append(_small(x).flatten(1).double().numpy())
        columns["label"].append(batch["label"].numpy())
        if "mask" in batch:
            columns["mask"].append(batch["mask"].numpy())
    if not columns["label"]:
        return None
    features, label, mask = (np.concatenate(parts) if parts else None for parts in columns.values())
    assert features is not None
    assert label is not None
    return _Samples(features, label, mask)


def _small(x: torch.Tensor) -> torch.Tensor:
    if x.ndim != 4:
        return x
    channels, height, width = x.shape[1:]
    factor = max(1, int(np.ceil((channels * height * width / FEATURE_LIMIT) ** 0.5)))
    return x if factor == 1 else functional.adaptive_avg_pool2d(x, (max(1, height // factor), max(1, width // factor)))


def _accuracies(train: _Samples, test: _Samples) -> dict[str, float]:
    kept, asked = train.labels >= 0, test.labels >= 0
    x, y, y_test = train.features[kept], train.labels[kept], test.labels[asked]
    classes, counts = np.unique(y, return_counts=True)
    found = {"majority": float((y_test == classes[counts.argmax()]).mean())}
    if len(classes) > 1:
        from sklearn.linear_model import LogisticRegression

        predicted = _fitted(LogisticRegression(C=_WEIGHT), x, y, test.features[asked])
        found["linear"] = float((predicted == y_test).mean())
    return found


def _errors(train: _Samples, test: _Samples) -> dict[str, float]:
    from sklearn.linear_model import Ridge

    linear = _fitted(Ridge(alpha=1 / _WEIGHT), train.features, train.labels, test.features)
    guesses = {"mean": train.labels.mean(), "linear": linear}
    return {name: float(np.sqrt(((test.labels - guess) ** 2).mean())) for name, guess in guesses.items()}


def _iou_by_place(train: np.ndarray, test: np.ndarray) -> float:
    """Returns the mean IoU, without class 0, of the mask with the most frequent class at each pixel."""
    classes = range(int(max(train[train != IGNORE].max(), test[test != IGNORE].max())) + 1)
    guess_HW = np.stack([(train == m).sum(axis=0) for m in classes]).argmax(axis=0)
    known = test != IGNORE
    found = []
    for m in classes[1:]:
        own, true = (guess_HW == m) & known, test == m
        if (either := (own | true).sum()) > 0:
            found.append((own & true).sum() / either)
    return float(np.mean(found))


def _fitted(model: Any, x: np.ndarray, y: np.ndarray, x_test: np.ndarray) -> np.ndarray:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a baseline need not reach the optimum exactly
        return np.asarray(make_pipeline(StandardScaler(), model).fit(x, y).predict(x_test))
