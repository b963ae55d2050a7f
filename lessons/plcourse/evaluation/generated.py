"""A table of any length that takes no memory: each row is computed from its number when its batch is needed.

Row i is a[i mod P] + b[i div P mod Q], the sum of two standard normal vectors from small tables, so that P * Q rows
differ. Its class is the largest of K scores of a fixed random network plus Gumbel noise, which is a draw from the
softmax of the scores. So no classifier can know all labels, and the best possible probabilities are known.

Shapes: B rows, D features, K classes.
"""

from typing import Any

import numpy as np
import torch
from pytorch_lightning import Trainer
from torch import nn

from plcourse.data import BatchLoader, Process, eval_loader, keys_of, train_loader
from plcourse.data.provenance import Identities
from plcourse.errors import UserError

FEATURES, CLASSES = 16, 4
_P, _Q = 1 << 16, 1 << 12
_SEED = 5
_SHARPNESS = 6.0  # of the true class probabilities


class GeneratedRows:
    """Rows `first` to `first + n - 1` as batches: ``features`` float32 [B, 16], ``id`` int64 [B], ``label`` int64 [B].

    Labels take longer to compute than the features, so batches have them only if `labeled`.
    """

    fingerprint = "generated"

    def __init__(self, n: int, first: int = 0, labeled: bool = True) -> None:
        self.n, self.first, self.labeled = n, first, labeled
        draw = torch.Generator().manual_seed(_SEED)
        self._a = torch.randn(_P, FEATURES, generator=draw) / 2**0.5
        self._b = torch.randn(_Q, FEATURES, generator=draw) / 2**0.5
        self._hidden = torch.randn(FEATURES, 32, generator=draw) / FEATURES**0.5
        self._out = nn.functional.normalize(torch.randn(32, CLASSES, generator=draw), dim=0)
        self._bias = torch.zeros(CLASSES)
        self._bias = -self.true_scores(self._a * 2**0.5).mean(dim=0)  # no class is rare
        uniform = torch.rand(_P + 1, CLASSES, generator=draw).clamp_(1e-6, 1 - 1e-6)
        self._noise = -torch.log(-torch.log(uniform))

    def __len__(self) -> int:
        return self.n

    @property
    def identities(self) -> Identities:
        """The hashes of the rows' numbers, which determine the rows."""
        end = self.first + self.n
        return Identities(keys_of(np.arange(self.first, end)), range(self.first, end))

    def fetch(self, indices: np.ndarray, epoch: int) -> dict[str, Any]:
        """The batch of the rows at `indices` (int64 [B]), the same in every epoch."""
        rows = torch.from_numpy(indices + self.first)
        features = self._a.index_select(0, rows % _P).add_(self._b.index_select(0, rows // _P % _Q))
        batch = {"features": features, "id": rows.numpy()}
        return {**batch, "label": self._labels(features, rows)} if self.labeled else batch

    def true_scores(self, features: torch.Tensor) -> torch.Tensor:
        """The scores [B, K] whose softmax the labels are drawn from."""
        return torch.tanh(features @ self._hidden) @ self._out * _SHARPNESS + self._bias

    def _labels(self, features: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        noise = self._noise.index_select(0, rows % (_P + 1))  # its period differs from that of the features
        return (self.true_scores(features) + noise).argmax(dim=1)


class GeneratedSplits:
    """The test, validation and training rows of a generated table, in this order, and all of its rows to predict.

    Raises:
        UserError: a fraction instead of a number of rows, or parts larger than the table.
    """

    label_names = [f"class_{k}" for k in range(CLASSES)]
    shape = (FEATURES, 1, 1)

    def __init__(self, rows: int, val_size: int | float, test_size: int | float, train_size: int = 50_000) -> None:
        if isinstance(val_size, float) or isinstance(test_size, float):
            raise UserError(f"val_size={val_size}, test_size={test_size}: give numbers of rows for a generated table")
        if not 0 < test_size + val_size + train_size <= rows:
            parts = f"{test_size} test, {val_size} validation and {train_size} training rows"
            raise UserError(f"rows={rows} is too small: the table must contain {parts}")
        self.rows = rows
        starts = {"test": (test_size, 0), "val": (val_size, test_size), "train": (train_size, test_size + val_size)}
        self._parts = {part: GeneratedRows(n, first) for part, (n, first) in starts.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """Rows of each part: ``n_test``, ``n_val`` and ``n_train``."""
        return {f"n_{part}": len(rows) for part, rows in self._parts.items()}

    @property
    def ids(self) -> list[str]:
        """Generated rows cannot be split anew."""
        raise UserError("a generated table cannot be split anew; choose another data.init_args.source")

    def prepare(self) -> None:
        """Does nothing: nothing is downloaded."""

    def open(self) -> None:
        """Does nothing: nothing is read."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing, because new rows need no preparation."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Does nothing: new rows need no preparation."""

    def train_loader(
        self, trainer: Trainer | None, batch_size: int, augment: object = None, num_workers: int = 0
    ) -> BatchLoader:
        """Shuffled batches of the training rows."""
        if augment:
            raise UserError("data.augment changes images; leave it out for a table")
        return train_loader(self._parts["train"], batch_size, Process.of(trainer), num_workers)

    def eval_loader(self, trainer: Trainer | None, part: str, batch_size: int, num_workers: int = 0) -> BatchLoader:
        """Each row of `part` once, in order; the part ``all`` is the whole table without labels."""
        rows = GeneratedRows(self.rows, labeled=False) if part == "all" else self._parts[part]
        return eval_loader(rows, batch_size, Process.of(trainer), num_workers, part)
