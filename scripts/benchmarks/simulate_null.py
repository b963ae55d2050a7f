"""How often the tests find a difference where there is none, by resampling a cheap learner on random data.

Two classes, two blocks of features of the same distribution. One nearest-centroid classifier sees the first block, the
other the second: by symmetry neither is better, so every difference that a test calls significant is a false one. Each
simulation draws new data, cross-validates both classifiers on the same folds, and tests the differences of their
accuracies at 0.05: the naive way, as if the folds were independent (Dietterich 1998), and corrected for the training
samples that they share (Nadeau and Bengio 2003). Uses the functions that `plcourse compare` uses.

    python scripts/benchmarks/simulate_null.py
"""

import argparse
import math
import time

import numpy as np

from plcourse.stats.significance import corrected_resampled_t_test, paired_t_test

ALPHA = 0.05
SHIFT = 0.35  # of a class's mean in each feature, in standard deviations: an accuracy of about 0.8


def draw(n: int, features: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two blocks of features [2, N, F] and classes [N] of -1 and 1."""
    y_N = generator.permutation(np.repeat([-1.0, 1.0], [n // 2, n - n // 2]))
    return generator.normal(size=(2, n, features)) + SHIFT * y_N[:, None], y_N


def held_out(n: int, n_splits: int, n_repeats: int, generator: np.random.Generator) -> np.ndarray:
    """Which samples each fold holds out, bool [R * K, N]."""
    number_RN = np.stack([generator.permutation(n) % n_splits for _ in range(n_repeats)])
    return (number_RN[:, None] == np.arange(n_splits)[:, None]).reshape(-1, n)


def accuracies(x_NF: np.ndarray, y_N: np.ndarray, out_KN: np.ndarray) -> np.ndarray:
    """The accuracy [K] of a nearest-centroid classifier on each fold's held-out samples."""
    train_KN = ~out_KN
    above_KN, below_KN = train_KN & (y_N > 0), train_KN & (y_N < 0)
    above_KF = above_KN @ x_NF / above_KN.sum(axis=1, keepdims=True)
    below_KF = below_KN @ x_NF / below_KN.sum(axis=1, keepdims=True)
    direction_KF, middle_KF = above_KF - below_KF, (above_KF + below_KF) / 2
    score_KN = direction_KF @ x_NF.T - (direction_KF * middle_KF).sum(axis=1, keepdims=True)
    right_KN = (score_KN > 0) == (y_N > 0)
    return (right_KN & out_KN).sum(axis=1) / out_KN.sum(axis=1)


def false_positives(n: int, features: int, n_splits: int, n_repeats: int, count: int, seed: int) -> tuple[int, int]:
    """How many of ``count`` simulations the naive and the corrected test call significant."""
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
    """A share with twice its standard error, in per cent."""
    share = found / count
    return f"{100 * share:5.1f} +- {200 * math.sqrt(share * (1 - share) / count):.1f} %"


def main() -> None:
    """Prints the rates for several ways to cut."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--simulations", type=int, default=4000, help="data sets drawn for each row")
    parser.add_argument("--samples", type=int, default=200, help="samples of each data set")
    parser.add_argument("--features", type=int, default=5, help="features that each classifier sees")
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
