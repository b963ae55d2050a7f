"""Simulates how often the tests find a difference where there is none, with a cheap learner on random data.

There are two classes and two blocks of features with the same distribution. One nearest-centroid classifier sees the
first block, another the second. By symmetry neither is better, so every significant difference is a false alarm. Each
simulation draws new data, cross-validates both classifiers on the same folds, and tests the differences of their
accuracies at 0.05 in two ways: naively, as if the folds were independent (Dietterich 1998), and corrected for the
training samples that the folds share (Nadeau and Bengio 2003). It uses the functions of `plcourse compare`.

    python scripts/benchmarks/simulate_null.py
"""

import argparse
import math
import time

import numpy as np

from plcourse.stats.significance import corrected_resampled_t_test, paired_t_test

ALPHA = 0.05
SHIFT = 0.35  # distance of a class mean in each feature, in standard deviations; gives an accuracy of about 0.8


def draw(n: int, features: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws two blocks of features [2, N, F] and classes [N] of -1 and 1."""
    y_N = generator.permutation(np.repeat([-1.0, 1.0], [n // 2, n - n // 2]))
    return generator.normal(size=(2, n, features)) + SHIFT * y_N[:, None], y_N


def held_out(n: int, n_splits: int, n_repeats: int, generator: np.random.Generator) -> np.ndarray:
    """Returns which samples each fold holds out, bool [R * K, N]."""
    number_RN = np.stack([generator.permutation(n) % n_splits for _ in range(n_repeats)])
    return (number_RN[:, None] == np.arange(n_splits)[:, None]).reshape(-1, n)


def accuracies(x_NF: np.ndarray, y_N: np.ndarray, out_KN: np.ndarray) -> np.ndarray:
    """Returns the accuracy [K] of a nearest-centroid classifier on the held-out samples of each fold."""
    train_KN = ~out_KN
    above_KN, below_KN = train_KN & (y_N > 0), train_KN & (y_N < 0)
    above_KF = above_KN @ x_NF / above_KN.sum(axis=1, keepdims=True)
    below_KF = below_KN @ x_NF / below_KN.sum(axis=1, keepdims=True)
    direction_KF, middle_KF = above_KF - below_KF, (above_KF + below_KF) / 2
    score_KN = direction_KF @ x_NF.T - (direction_KF * middle_KF).sum(axis=1, keepdims=True)
    right_KN = (score_KN > 0) == (y_N > 0)
    return (right_KN & out_KN).sum(axis=1) / out_KN.sum(axis=1)


def false_positives(n: int, features: int, n_splits: int, n_repeats: int, count: int, seed: int) -> tuple[int, int]:
    """Counts in how many of ``count`` simulations the naive and the corrected test are significant."""
    generator = np.random.default_rng(seed)
    naive = corrected = 0
    for _ in range(count):
        blocks, y_N = draw(n, features, generator)
        out_KN = held_out(n, n_splits, n_repeats, generator)
        scores = [accuracies(block, y_N, out_KN).tolist() for block in blocks]
        p = paired_t_test(*scores).p
        naive += p is not None and p < ALPHA
        p = corrected_resampled_t_test(*scores, test_train_ratio=1 / (n_splits - 1)).p
        corrected += p is not None and p < ALPHA
    return naive, corrected


def rate(found: int, count: int) -> str:
    """Formats a fraction with twice its standard error, in per cent."""
    share = found / count
    return f"{100 * share:5.1f} +- {200 * math.sqrt(share * (1 - share) / count):.1f} %"


def main() -> None:
    """Prints the rates for several numbers of folds and repeats."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--simulations", type=int, default=4000, help="number of data sets per row")
    parser.add_argument("--samples", type=int, default=200, help="number of samples per data set")
    parser.add_argument("--features", type=int, default=5, help="number of features per classifier")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.perf_counter()
    print(f"{options.simulations} simulations, {options.samples} samples, two equally good classifiers, level {ALPHA}")
    print("folds x repeats   naive t-test     corrected")
    for n_splits, n_repeats in ((5, 1), (10, 1), (5, 3), (10, 3), (10, 10)):
        arguments = (options.samples, options.features, n_splits, n_repeats, options.simulations, options.seed)
        naive, corrected = false_positives(*arguments)
        count = options.simulations
        print(f"{n_splits:5} x {n_repeats:<9} {rate(naive, count)}   {rate(corrected, count)}", flush=True)
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
