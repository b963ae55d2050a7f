"""A model and a data module as a user writes them; tests let them in with ``--trust own_kfold``."""

import copy
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pytorch_lightning as pl
import torch
from torch.nn import functional
from torch.utils.data import DataLoader


class Points(pl.LightningDataModule):
    """Points in the plane, of two classes; plain DataLoaders.

    Args:
        with_ids: whether batches are dicts with ids and labels, or mere pairs.
        triples: whether the ids follow in a tuple instead.
        leak: whether one sample that is held out is trained on.
    """

    def __init__(self, with_ids: bool = True, leak: bool = False, triples: bool = False) -> None:
        super().__init__()
        self.with_ids, self.leak, self.triples = with_ids and not triples, leak, triples
        generator = np.random.RandomState(0)
        self.points = generator.normal(size=(90, 2)).astype(np.float32)
        self.labels = (self.points.sum(axis=1) > 0).astype(np.int64)
        self.ids = [f"p{i}" for i in range(90)]
        self.groups = None
        self.train_rows = self.val_rows = list(range(90))

    def with_split(self, train_ids: Sequence[str], val_ids: Sequence[str]) -> Self:
        anew = copy.copy(self)
        anew.train_rows = [int(name[1:]) for name in train_ids]
        anew.val_rows = [int(name[1:]) for name in val_ids]
        if self.leak:
            anew.train_rows.append(anew.val_rows[0])
        return anew

    def train_dataloader(self) -> Any:
        return self._loader(self.train_rows, shuffle=True)

    def val_dataloader(self) -> Any:
        return self._loader(self.val_rows, shuffle=False)

    def test_dataloader(self) -> Any:
        return self._loader(list(range(10)), shuffle=False)

    def predict_dataloader(self) -> Any:
        return self._loader(list(range(10)), shuffle=False)

    def _loader(self, rows: list[int], shuffle: bool) -> Any:
        samples: Any = [(self.points[row], int(self.labels[row])) for row in rows]
        if self.with_ids:
            samples = [{"x": x, "label": y, "id": f"p{row}"} for row, (x, y) in zip(rows, samples, strict=True)]
        if self.triples:
            samples = [(x, y, f"p{row}") for row, (x, y) in zip(rows, samples, strict=True)]
        return DataLoader(samples, batch_size=16, shuffle=shuffle)


class Linear(pl.LightningModule):
    """Two class scores of a point."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = self._loss(batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", self._loss(batch), on_step=False, on_epoch=True, batch_size=len(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/loss", self._loss(batch), on_step=False, on_epoch=True, batch_size=len(batch))

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        return {"id": batch["id"], "probability": self(batch["x"]).softmax(1)}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.5)

    def _loss(self, batch: Any) -> torch.Tensor:
        x, y = (batch["x"], batch["label"]) if isinstance(batch, dict) else batch[:2]
        return functional.cross_entropy(self(x), y)
