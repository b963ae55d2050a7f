"""A solution of the exercise kfold/scaler."""

from collections.abc import Iterator

import numpy as np


def standardized_folds(feature_NF: np.ndarray, fold_N: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Standardizes the features of each fold's training and held-out samples.

    Args:
        feature_NF: float64 [N, F].
        fold_N: int64 [N], the fold in which each sample is held out.

    Yields:
        The training features and the held-out features of each fold, in fold order.
    """
    for fold in np.unique(fold_N):
        train, held = feature_NF[fold_N != fold], feature_NF[fold_N == fold]
        mean_F, sd_F = train.mean(axis=0), train.std(axis=0)
        yield (train - mean_F) / sd_F, (held - mean_F) / sd_F
