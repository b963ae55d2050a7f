"""Distances between generated and real samples in the features of a network, in float64.

Shape suffixes: N real samples, M generated ones, F features.
"""

import numpy as np
import torch
from torch import Tensor

CHUNK = 1024  # rows of a distance matrix in memory at a time


def frechet_distance(real_NF: np.ndarray, fake_MF: np.ndarray) -> float:
    r"""The Frechet distance of two Gaussians fitted to the features (Heusel et al. 2017, arXiv 1706.08500, equation 6).

    .. math:: |\mu_r - \mu_f|^2 + \mathrm{tr}(\Sigma_r + \Sigma_f - 2 (\Sigma_r^{1/2} \Sigma_f \Sigma_r^{1/2})^{1/2})

    It is 0 or more, and biased upward, more so for fewer samples: compare only distances from equally many samples.
    """
    means = [features.mean(axis=0) for features in (real_NF, fake_MF)]
    real_FF, fake_FF = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (real_NF, fake_MF))
    values_F, vectors_FF = np.linalg.eigh(real_FF)
    root_FF = vectors_FF * np.sqrt(values_F.clip(0)) @ vectors_FF.T
    # the product is symmetric: its eigenvalues are real, and their roots sum to the trace of its root
    cross = np.sqrt(np.linalg.eigvalsh(root_FF @ fake_FF @ root_FF).clip(0)).sum()
    squared = np.square(means[0] - means[1]).sum()
    return float(max(0.0, squared + np.trace(real_FF) + np.trace(fake_FF) - 2 * cross))


def kernel_distance(real_NF: np.ndarray, fake_MF: np.ndarray) -> float:
    """KID: the squared maximum mean discrepancy with the kernel (x.y / F + 1)^3 (Binkowski et al. 2018, section 3.1).

    Unbiased: samples of one distribution give 0 on average, and may give less.
    """

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def within(a: np.ndarray) -> float:
        values = kernel(a, a)
        return (values.sum() - np.trace(values)) / (len(a) * (len(a) - 1))

    return float(within(real_NF) + within(fake_MF) - 2 * kernel(real_NF, fake_MF).mean())


def precision_and_recall(real_NF: np.ndarray, fake_MF: np.ndarray, neighbors: int = 3) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991, equations 1 and 2).

    Each sample is the center of a ball that reaches to its k-th nearest neighbor of the same kind. Precision is the
    fraction of generated samples inside a ball of a real one (are they good?), recall the fraction of real samples
    inside a ball of a generated one (are all kinds covered?). ``neighbors`` is k, 1 or more and less than N and M.
    """
    real, fake = torch.from_numpy(real_NF), torch.from_numpy(fake_MF)
    return _fraction_inside(fake, real, neighbors), _fraction_inside(real, fake, neighbors)


def _fraction_inside(points_AF: Tensor, centers_BF: Tensor, neighbors: int) -> float:
    radius_B = torch.cat(
        # the nearest sample is the sample itself
        [torch.cdist(rows, centers_BF).kthvalue(neighbors + 1, dim=1).values for rows in centers_BF.split(CHUNK)]
    )
    inside = [(torch.cdist(rows, centers_BF) <= radius_B).any(dim=1) for rows in points_AF.split(CHUNK)]
    return float(torch.cat(inside).double().mean())


def mode_fractions(labels: np.ndarray, modes: int) -> np.ndarray:
    """The fraction of the samples in each mode, float64 [modes]; labels (int64 [N]) outside 0..modes-1 are in none."""
    inside = labels[(labels >= 0) & (labels < modes)]
    return np.bincount(inside, minlength=modes) / len(labels)


def modes_covered(fake: np.ndarray, real: np.ndarray, least: float = 0.1) -> int:
    """The number of modes whose fraction of generated samples is at least ``least`` times that of real ones."""
    return int(((fake >= least * real) & (fake > 0)).sum())


def total_variation(fake: np.ndarray, real: np.ndarray) -> float:
    """The total variation distance of two lists of mode fractions, 0 (equal) to 1 (disjoint).

    A list may sum to less than 1; the rest is the fraction of the samples in no mode.
    """
    return float((np.abs(fake - real).sum() + abs(fake.sum() - real.sum())) / 2)
