"""Checks `scaler`."""

from types import ModuleType

import numpy as np


def _data() -> tuple[np.ndarray, np.ndarray]:
    draws = np.random.default_rng(0)
    return draws.normal(3, [1, 10, 0.1], size=(60, 3)), np.arange(60) % 5


def check_no_leak(answer: ModuleType) -> None:
    """The held-out samples of a fold do not change its training features."""
    feature_NF, fold_N = _data()
    for number, (train, _) in enumerate(answer.standardized_folds(feature_NF, fold_N)):
        other_NF = feature_NF.copy()
        other_NF[fold_N == number] += 100
        moved, _ = list(answer.standardized_folds(other_NF, fold_N))[number]
        off = float(np.abs(moved - train).max())
        assert off < 1e-9, f"fold {number}: changing held-out samples changed training features by {off:.2g}"


def check_standardized(answer: ModuleType) -> None:
    """The training features of each fold have mean 0 and standard deviation 1."""
    for number, (train, _) in enumerate(answer.standardized_folds(*_data())):
        off = max(np.abs(train.mean(axis=0)).max(), np.abs(train.std(axis=0) - 1).max())
        assert off < 1e-9, f"fold {number} is off by {off:.2g}"


def check_same_scale(answer: ModuleType) -> None:
    """Held-out samples are scaled like training samples: equal values stay equal."""
    feature_NF, fold_N = _data()
    feature_NF[fold_N == 0] = feature_NF[fold_N == 1]
    train, held = next(iter(answer.standardized_folds(feature_NF, fold_N)))
    twins = train[fold_N[fold_N != 0] == 1]
    assert held.shape == twins.shape, f"the held-out features have shape {held.shape}, not {twins.shape}"
    assert np.allclose(held, twins), "a held-out sample and an equal training sample are scaled differently"
