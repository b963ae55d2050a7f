"""Lesson 15 on one page: train on the easy samples first, and admit harder ones step by step.

    python -m plcourse.curriculum.minimal

A curriculum has three parts (Bengio et al. 2009; Hacohen and Weinshall 2019, arXiv 1904.03626): a difficulty score for
each sample, a pace (the fraction of the samples admitted at each time), and epochs that draw only from the admitted
samples. To keep the comparison fair, every epoch has as many batches as one without a curriculum.

Shape suffixes: N training samples, P pixels, K classes.
"""

import math

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from torch import Tensor, nn
from torch.nn import functional

from plcourse.curriculum.data import CurriculumData
from plcourse.data import permutation


def difficulty(image_NP: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """The negative margin of a linear classifier, float64 [N]. Each sample is scored by one fitted without it."""
    classifier = LogisticRegression(C=0.001, max_iter=1000, tol=1e-3)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    decision_NK = np.asarray(cross_val_predict(classifier, image_NP, label_N, cv=folds, method="decision_function"))
    own_N = decision_NK[np.arange(len(label_N)), label_N]
    decision_NK[np.arange(len(label_N)), label_N] = -np.inf
    return decision_NK.max(axis=1) - own_N


def easy_first(difficulty_N: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """The order in which samples are admitted. Every class contributes its easiest samples at the same rate."""
    ranking_N = np.argsort(difficulty_N)
    place_N = np.empty(len(label_N))
    for label in np.unique(label_N):
        (of_class,) = np.nonzero(label_N[ranking_N] == label)
        place_N[of_class] = (np.arange(len(of_class)) + 0.5) / len(of_class)
    return ranking_N[np.argsort(place_N, kind="stable")]


def admitted_fraction(progress: float, start: float = 0.2, ramp: float = 0.5) -> float:
    """The pace: rises linearly from `start` to 1 over the fraction `ramp` of the training, then stays at 1."""
    return min(1.0, start + (1 - start) * progress / ramp)


def draws(ranking_N: np.ndarray, epoch: int, epochs: int, batch_size: int, seed: int) -> np.ndarray:
    """The samples of one epoch: shuffled passes over the admitted samples until N samples are drawn."""
    n, passes, drawn = len(ranking_N), [], 0
    batches = math.ceil(n / batch_size)
    while drawn < n:
        progress = (epoch * batches + drawn // batch_size) / (epochs * batches)
        admitted = np.sort(ranking_N[: math.ceil(admitted_fraction(progress) * n - 1e-9)])
        passes.append(admitted[permutation(seed, epoch + (len(passes) << 32), len(admitted))])
        drawn += len(admitted)
    return np.concatenate(passes)[:n]


def train(curriculum: bool, epochs: int = 10, batch_size: int = 64, seed: int = 0) -> nn.Module:
    """Trains on the digits, with a curriculum or with all samples from the start."""
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    image_NCHW, label_N = part("train")
    ranking_N = easy_first(difficulty(image_NCHW.flatten(1).numpy(), label_N.numpy()), label_N.numpy())
    for epoch in range(epochs):
        order_N = (
            draws(ranking_N, epoch, epochs, batch_size, seed) if curriculum else permutation(seed, epoch, len(label_N))
        )
        for batch_B in torch.from_numpy(order_N).split(batch_size):
            loss = functional.cross_entropy(network(image_NCHW[batch_B]), label_N[batch_B])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network


def part(name: str) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 8, 8] and labels [N] of ``train`` or ``test``."""
    whole = next(iter(CurriculumData("digits").splits.eval_loader(None, name, batch_size=10_000)))
    return whole["image"], whole["label"]


if __name__ == "__main__":
    test_image, test_label = part("test")
    for curriculum in (False, True):
        correct = train(curriculum)(test_image).argmax(dim=1) == test_label
        print(f"{'easy first' if curriculum else 'no curriculum'}: test accuracy {correct.float().mean():.3f}")
