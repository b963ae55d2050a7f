"""Standardised folds.

A colleague cross-validates with these folds and gets scores that new data do not confirm. Find the leak and mend it.
"""

from collections.abc import Iterator

import numpy as np


def standardised_folds(feature_NF: np.ndarray, fold_N: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each fold the features of its training part and of its held-out part, standardised.

    Args:
        feature_NF: float64 [N, F].
        fold_N: int64 [N], the fold in which each sample is held out.

    Yields:
        Training part and held-out part, in the order of the folds' numbers.
    """
    scaled_NF = (feature_NF - feature_NF.mean(axis=0)) / feature_NF.std(axis=0)
    for fold in np.unique(fold_N):
        yield scaled_NF[fold_N != fold], scaled_NF[fold_N == fold]
