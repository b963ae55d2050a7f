"""The toy data of this lesson: 25 Gaussians on a grid, for which the modes that a generator misses can be counted.

The grid is that of VEEGAN (Srivastava et al. 2017, section 4.1): 5 x 5 centers at distance 2. The standard deviation
is 0.1 instead of 0.05, so that the modes are 20 standard deviations apart and seconds of training suffice.

Shape suffixes: N points, M modes, B points of a batch.
"""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from plcourse.data import BatchLoader, Process, eval_loader, keys_of, normals, train_loader, uniforms
from plcourse.data.provenance import Identities, row_hashes
from plcourse.errors import UserError
from plcourse.gan.latents import Seeds
from plcourse.gan.measures import mode_fractions, modes_covered, total_variation
from plcourse.gan.quality import Quality
from plcourse.processes.collectives import gather_objects

NEAR = 3.0  # a point within so many standard deviations of a center is good; 98.9 % of real points in two dimensions
COVERED = 0.1  # fraction of the points it should have for a mode to count as found; evenly spread points give 0.07
PIXELS = 320  # width and height of a picture


class GaussianGrid(pl.LightningDataModule):
    """Points of a grid of Gaussians.

    Args:
        side: modes in each direction; there are ``side * side``.
        spacing: distance between neighboring centers.
        std: standard deviation of each mode.
        n_train: training points.
        n_val: validation points.
        n_test: test points.
        batch_size: points per batch and process.
        data_seed: fixes the points.
        predict_samples: number of points that `predict` generates, from the seeds 0, 1, 2, ...
        predict_seeds: the seeds to generate from instead.
    """

    shape = (2,)

    def __init__(
        self,
        side: int = 5,
        spacing: float = 2.0,
        std: float = 0.1,
        n_train: int = 25600,
        n_val: int = 2500,
        n_test: int = 2500,
        batch_size: int = 256,
        data_seed: int = 0,
        predict_samples: int = 1000,
        predict_seeds: list[int] | None = None,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self.centers = self.centres = grid(side, spacing)  # centres: its name in 0.1
        self.std = std
        self.sizes = {"n_train": n_train, "n_val": n_val, "n_test": n_test}
        self.batch_size, self.data_seed = batch_size, data_seed
        self.seeds = Seeds(range(predict_samples) if predict_seeds is None else predict_seeds)

    def train_dataloader(self) -> BatchLoader:
        """Shuffled; each batch has a ``rank_weight``."""
        return train_loader(self._points("train"), self.batch_size, Process.of(self.trainer))

    def val_dataloader(self) -> BatchLoader:
        """Each validation point once."""
        return eval_loader(self._points("val"), self.batch_size, Process.of(self.trainer))

    def test_dataloader(self) -> BatchLoader:
        """Each test point once."""
        return eval_loader(self._points("test"), self.batch_size, Process.of(self.trainer))

    def predict_dataloader(self) -> BatchLoader:
        """Each seed once."""
        return eval_loader(self.seeds, self.batch_size, Process.of(self.trainer))

    def _points(self, part: str) -> "Points":
        return Points(part, self.sizes[f"n_{part}"], self.centers, self.std, self.data_seed)


class Points:
    """Points of a mixture of Gaussians with equal weights, each a function of its id, which begins with ``part``."""

    def __init__(self, part: str, n: int, centers: np.ndarray, std: float, seed: int) -> None:
        self.ids = [f"{part}/{i:06d}" for i in range(n)]
        keys = keys_of(self.ids)
        mode_N = (uniforms(seed, 0, keys, 1)[:, 0] * len(centers)).astype(np.int64)
        points_N2 = centers[mode_N] + std * normals(seed, 1, keys, 2)
        self.points = torch.from_numpy(points_N2).float()
        self.labels = torch.from_numpy(mode_N)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def identities(self) -> Identities:
        """The hashes and ids of the points."""
        return Identities(row_hashes(self.points.numpy()), self.ids)

    def fetch(self, indices: np.ndarray, epoch: int) -> dict[str, Any]:
        """The batch at ``indices``: ``point`` float32 [B, 2], ``label`` int64 [B] (the mode), and ``id``."""
        chosen = torch.from_numpy(indices)
        ids = [self.ids[i] for i in indices.tolist()]
        return {"point": self.points[chosen], "label": self.labels[chosen], "id": ids}


def grid(side: int, spacing: float) -> np.ndarray:
    """The centers, float64 [side * side, 2], around the origin."""
    line = (np.arange(side) - (side - 1) / 2) * spacing
    return np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)


class GaussianQuality(Quality):
    """Counts generated points by mode; needs no feature network, since the true distribution is known.

    Scores: ``good``, the fraction of generated points within 3 standard deviations of a center; ``modes``, the modes
    with at least a tenth of the good points they should have (VEEGAN requires one point); ``mode_tv``, the total
    variation distance to the true mode fractions, where points that are not good count as an extra mode. Outside fit
    also ``good_floor`` and ``mode_tv_floor``, the same of the real points, and ``samples``.
    """

    field, distance = "point", "mode_tv"
    _centers: np.ndarray  # set by `prepare`, like the standard deviation
    _std: float

    def __init__(self) -> None:
        super().__init__()
        self._modes: list[np.ndarray] = []

    def prepare(self, trainer: pl.Trainer) -> None:
        """Takes the modes from the data module; a UserError if it has none."""
        data: Any = getattr(trainer, "datamodule", None)
        centers = getattr(data, "centers", getattr(data, "centres", None))
        if centers is None:
            raise UserError("GaussianQuality needs a data module with known modes, such as GaussianGrid")
        self._centers, self._std = centers, data.std

    def update(self, real: Tensor, fake: Tensor) -> None:
        """Adds real and generated points, [B, 2] each."""
        self._modes.append(np.stack([self.nearest(real), self.nearest(fake)], axis=1))

    def nearest(self, point_B2: Tensor) -> np.ndarray:
        """The mode of each point, int64 [B]; -1 for a point that is not good."""
        points = point_B2.detach().double().cpu().numpy()
        distance_BM = np.linalg.norm(points[:, None] - self._centers, axis=2)
        return np.where(distance_BM.min(axis=1) <= NEAR * self._std, distance_BM.argmin(axis=1), -1)

    def scores(self, trainer: pl.Trainer) -> dict[str, float]:
        """The scores over all processes, as the class lists them."""
        rows = [part for own in gather_objects(self._modes) for part in own]
        self._modes = []
        real, fake = np.concatenate(rows).T
        modes = len(self._centers)
        true = np.full(modes, 1 / modes)
        fractions = mode_fractions(fake, modes)
        found = {
            "good": float(fractions.sum()),
            "modes": float(modes_covered(fractions, true, COVERED)),
            "mode_tv": total_variation(fractions, true),
        }
        if trainer.state.fn == "fit":
            return found
        real_fractions = mode_fractions(real, modes)
        floor = {"good_floor": float(real_fractions.sum()), "mode_tv_floor": total_variation(real_fractions, true)}
        return found | floor | {"samples": float(len(fake))}

    def describe(self, sample: Tensor) -> dict[str, Any]:
        """``x``, ``y`` and ``label`` int64 [B], the mode, or -1 for a point in none."""
        label_B = torch.from_numpy(self.nearest(sample))
        return {"x": sample[:, 0], "y": sample[:, 1], "label": label_B}

    def picture(self, sample: Tensor, columns: int) -> np.ndarray:
        """Blue points over the orange circles that contain the good ones; ``columns`` has no effect."""
        reach = np.abs(self._centers).max() * 1.3 + NEAR * self._std
        axis = (np.arange(PIXELS) + 0.5) / PIXELS * 2 * reach - reach
        y_HW, x_HW = np.meshgrid(-axis, axis, indexing="ij")
        canvas = np.full((PIXELS, PIXELS, 3), 255, np.uint8)
        for x, y in self._centers:
            canvas[np.hypot(x_HW - x, y_HW - y) <= NEAR * self._std] = (255, 190, 110)
        points = sample.detach().double().cpu().numpy()
        column, row = np.floor((points * (1, -1) + reach) / (2 * reach) * PIXELS).astype(np.int64).T
        seen = (column >= 0) & (column < PIXELS) & (row >= 0) & (row < PIXELS)
        canvas[row[seen], column[seen]] = (30, 80, 160)
        return canvas
