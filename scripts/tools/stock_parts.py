"""A module, data and a logger as a Lightning user writes them, on which `compare_with_stock.py` tries settings."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

BATCHES, BATCH_SIZE, FEATURES, CLASSES = 10, 8, 6, 3


class Net(pl.LightningModule):
    """A classifier with dropout and batch normalization that remembers its losses.

    Args:
        optimizer: builds the optimizer; the learning rate is ``lr``.
        lr_scheduler: builds the schedule; None for none.
        interval: when the schedule is stepped.
        frequency: every how many intervals.
        monitor: the metric of a schedule that follows one.
        lr: learning rate, above 0.
        closure: whether to override `optimizer_step` and do there what Lightning does.
        returns: what the training step returns; ``skips`` returns None for every third batch.
        frozen: whether the optimizer starts without the backbone.
    """

    def __init__(
        self,
        optimizer: OptimizerCallable = lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
        lr_scheduler: LRSchedulerCallable | None = None,
        interval: str = "epoch",
        frequency: int = 1,
        monitor: str | None = None,
        lr: float = 0.1,
        returns: Literal["loss", "dict", "skips"] = "loss",
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(16, CLASSES))
        self.optimizer, self.lr_scheduler, self.lr = optimizer, lr_scheduler, lr
        self.interval, self.frequency, self.monitor = interval, frequency, monitor
        self.returns, self.frozen = returns, frozen
        self.losses: list[float] = []

    def forward(self, features_BF: Tensor) -> Tensor:
        """Returns class scores [B, K]."""
        return self.head(self.backbone(features_BF))

    def loss(self, batch: Any) -> Tensor:
        """Returns the mean cross-entropy of a batch, or of the batches of several loaders."""
        if isinstance(batch, dict):
            return torch.stack([self.loss(each) for each in batch.values() if each is not None]).mean()
        features_BF, label_B = batch
        return functional.cross_entropy(self(features_BF), label_B)

    def on_train_start(self) -> None:
        self.losses.clear()  # those of a tuner

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = self.loss(batch)
        self.losses.append(loss.item())
        self.log("train/loss", loss, on_step=True, on_epoch=True, batch_size=BATCH_SIZE)
        if self.returns == "skips" and batch_idx % 3 == 2:
            return None
        return {"loss": loss, "index": batch_idx} if self.returns == "dict" else loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val/loss", self.loss(batch), batch_size=BATCH_SIZE)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad or not self.frozen])
        for group in optimizer.param_groups:
            group["lr"] = self.lr
        if self.lr_scheduler is None:
            return optimizer
        schedule = {"scheduler": self.lr_scheduler(optimizer), "monitor": self.monitor}
        timing = {"interval": self.interval, "frequency": self.frequency}
        return {"optimizer": optimizer, "lr_scheduler": {**schedule, **timing}}


class OverridingNet(Net):
    """Overrides the hooks around an optimizer step with what Lightning does there, and clips by hand."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        optimizer.step(closure=optimizer_closure)

    def configure_gradient_clipping(self, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=0.3, gradient_clip_algorithm="norm")

    def on_after_backward(self) -> None:
        self.log("norm", torch.stack([p.grad.norm() for p in self.parameters() if p.grad is not None]).norm())


class ManualNet(Net):
    """Steps one optimizer by hand, or one for the backbone and one for the head."""

    def __init__(self, optimizers: int = 1) -> None:
        super().__init__()
        self.count = optimizers
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizers = self.optimizers()
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            loss = self.loss(batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.losses.append(loss.item())
        self.log("train/loss", self.losses[-1])

    def configure_optimizers(self) -> Any:
        parts = [self] if self.count == 1 else [self.backbone, self.head]
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in parts]


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """The samples of a dataset without random access.

    Args:
        data: the samples.
        sized: whether their number is known.
    """

    def __init__(self, data: Dataset[Any], sized: bool) -> None:
        self.data, self.sized = data, sized

    def __iter__(self) -> Iterator[Any]:
        return (self.data[index] for index in range(BATCHES * BATCH_SIZE))

    def __len__(self) -> int:
        if not self.sized:
            raise TypeError("a stream without length")
        return BATCHES * BATCH_SIZE


class Batches(pl.LightningDataModule):
    """Tuples of features and labels in torch's DataLoaders.

    Args:
        kind: whether the training data are a dataset, a stream with or without a length, or two datasets.
        loaders: number of validation loaders, 1 or more.
        batch_size: samples per batch, 1 or more.
        num_workers: processes that read.
    """

    def __init__(
        self,
        kind: Literal["dataset", "stream", "unsized", "two"] = "dataset",
        loaders: int = 1,
        batch_size: int = BATCH_SIZE,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        self.kind, self.loaders, self.batch_size, self.num_workers = kind, loaders, batch_size, num_workers

    def train_dataloader(self) -> Any:
        data = _samples(BATCHES * BATCH_SIZE, seed=0)
        if self.kind in ("stream", "unsized"):
            return DataLoader(Stream(data, sized=self.kind == "stream"), self.batch_size)
        workers = {"num_workers": self.num_workers, "persistent_workers": self.num_workers > 0}
        loader = DataLoader(data, self.batch_size, shuffle=True, **workers)
        return {"a": loader, "b": DataLoader(_samples(40, 1), 5, shuffle=True)} if self.kind == "two" else loader

    def val_dataloader(self) -> Any:
        loaders = [DataLoader(_samples(3 * BATCH_SIZE, seed=2 + i), BATCH_SIZE) for i in range(self.loaders)]
        return loaders if self.loaders > 1 else loaders[0]


class Kept(Logger):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "kept"

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing."""


def _samples(count: int, seed: int) -> Dataset[Any]:
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(count, FEATURES, generator=draw)
    return TensorDataset(features, features[:, :CLASSES].argmax(1))
