"""What a user brings: modules, data and callbacks as Lightning's documentation writes them, without the suite."""

import json
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import lightning as L  # noqa: N812  (as everybody writes it)  # pyright: ignore[reportMissingImports]
import torch
from lightning.pytorch.callbacks import BasePredictionWriter  # pyright: ignore[reportMissingImports]
from lightning.pytorch.cli import OptimizerCallable  # pyright: ignore[reportMissingImports]
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

SAMPLES, FEATURES, CLASSES = 20, 4, 3
Form = Literal["tuple", "dict", "nested"]
Scores = namedtuple("Scores", "label score")


class Points(Dataset[Any]):
    """Points with a label, in samples of one of three forms; those of a dict have a whole number as id."""

    def __init__(self, form: Form) -> None:
        draw = torch.Generator().manual_seed(0)
        self.form = form
        self.points = torch.randn(SAMPLES, FEATURES, generator=draw)
        self.labels = torch.arange(SAMPLES) % CLASSES

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        point, label = self.points[index], self.labels[index]
        if self.form == "tuple":
            return point, label
        if self.form == "dict":
            return {"id": 100 + index, "point": point, "label": label}
        return {"input": {"point": point}, "target": (label, [index])}


class Stream(IterableDataset[Any]):
    """The same points without a length."""

    def __init__(self, form: Form) -> None:
        self.points = Points(form)

    def __iter__(self) -> Iterator[Any]:
        return (self.points[index] for index in range(SAMPLES))


class StockData(L.LightningDataModule):
    """Data that are set up for each stage, as usual.

    Args:
        form: of the samples.
        loaders: loaders for validation, test and prediction; a dict of them for validation where there are several.
        stream: whether the data sets have no length.
        batch_size: samples per batch.
    """

    def __init__(self, form: Form = "tuple", loaders: int = 1, stream: bool = False, batch_size: int = 8) -> None:
        super().__init__()
        self.form: Form = form
        self.loaders, self.stream, self.batch_size = loaders, stream, batch_size

    def setup(self, stage: str) -> None:
        self.points = Stream(self.form) if self.stream else Points(self.form)
        if stage == "fit":
            self.train = Points(self.form)

    def train_dataloader(self) -> Any:
        return DataLoader(self.train, batch_size=self.batch_size, shuffle=True)

    def val_dataloader(self) -> Any:
        loaders = self._loaders()
        return {f"part_{number}": loader for number, loader in enumerate(loaders)} if self.loaders > 1 else loaders

    def test_dataloader(self) -> Any:
        return self._loaders()

    def predict_dataloader(self) -> Any:
        return self._loaders()

    def _loaders(self) -> list[Any]:
        return [DataLoader(self.points, batch_size=self.batch_size) for _ in range(self.loaders)]


class StockNet(L.LightningModule):
    """A linear classifier.

    Args:
        returns: what ``predict_step`` returns.
        lr: the learning rate.
    """

    def __init__(self, returns: str = "scores", lr: float = 0.1) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(FEATURES, CLASSES)

    def forward(self, point: Tensor) -> Tensor:
        return self.layer(point)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log("train/loss", loss, batch_size=len(_read(batch)[1]))
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val/loss", self._loss(batch), batch_size=len(_read(batch)[1]))

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        point, label = _read(batch)
        hits = (self(point).argmax(dim=1) == label).float().mean()
        self.log("test/accuracy", hits, batch_size=len(label))

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        point, _ = _read(batch)
        scores = self(point)
        label = scores.argmax(dim=1)
        match self.hparams["returns"]:
            case "scores":
                return scores
            case "label":
                return label
            case "maps":
                return scores[:, :, None].expand(-1, -1, 2)
            case "tuple":
                return label, scores
            case "named":
                return Scores(label, scores.amax(dim=1))
            case "dict":
                return {"answer": {"label": label, "score": scores.amax(dim=1)}, "model": "linear"}
            case "rows":
                return [{"boxes": scores[i, : i % 2 + 1], "label": label[i]} for i in range(len(label))]
            case "object":
                return [object() for _ in label]
        return None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.hparams["lr"])

    def _loss(self, batch: Any) -> Tensor:
        point, label = _read(batch)
        return nn.functional.cross_entropy(self(point), label)


class Configurable(StockNet):
    """Takes its optimizer, and what the class above takes."""

    def __init__(self, optimizer: OptimizerCallable = torch.optim.SGD, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.optimizer = optimizer

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.parameters())


class Inherited(Configurable):
    """The same, by way of its base class."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)


class NoPredictStep(L.LightningModule):
    """A module that is called with its input, and whose predict_step is Lightning's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, 1)

    def forward(self, point: Tensor) -> Tensor:
        return self.layer(point)[:, 0]


class LogsEachBatch(L.LightningModule):
    """Logs a value of each batch over all ranks, as only ranks with equal numbers of batches can."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/brightness", batch["image"].mean(), on_step=True, sync_dist=True, batch_size=1)


class Indices(BasePredictionWriter):
    """Writes the indices that it gets, and those of a whole epoch."""

    def __init__(self, path: str) -> None:
        super().__init__("batch_and_epoch")
        self.path, self.batches = path, []

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Any,
        batch_indices: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        self.batches.append([dataloader_idx, batch_idx, batch_indices])

    def write_on_epoch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, predictions: Any, batch_indices: Any
    ) -> None:
        Path(self.path).write_text(json.dumps({"batches": self.batches, "epoch": batch_indices}))


def _read(batch: Any) -> tuple[Tensor, Tensor]:
    if isinstance(batch, list | tuple):
        return batch[0], batch[1]
    return (batch["point"], batch["label"]) if "point" in batch else (batch["input"]["point"], batch["target"][0])
