"""Standardized folds.

A colleague cross-validates with these folds and gets scores that new data do not confirm. Find the leak and fix it.
"""

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
    scaled_NF = (feature_NF - feature_NF.mean(axis=0)) / feature_NF.std(axis=0)
    for fold in np.unique(fold_N):
        yield scaled_NF[fold_N != fold], scaled_NF[fold_N == fold]
