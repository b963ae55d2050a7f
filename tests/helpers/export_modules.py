"""Modules that only the tests export: one with text of any length, one that generates, one that no trace can hold."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from plcourse import Run
from plcourse.training.exportable import BATCH, Dimension, Input, Output, Signature
from plcourse.training.metrics import ClassificationScores

WORDS, LENGTH = 50, 12


class TextClassifier(pl.LightningModule):
    """A convolution over word numbers, the mean over the length, two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.convolution, self.head = (
            nn.Embedding(WORDS, 8),
            nn.Conv1d(8, 16, 3, padding=1),
            nn.Linear(16, 2),
        )
        self.test_scores = ClassificationScores(2, "test")

    def forward(self, words_BT: Tensor) -> Tensor:
        return self.head(torch.relu(self.convolution(self.embedding(words_BT).transpose(1, 2))).mean(2))

    def export_signature(self) -> Signature:
        free = {0: BATCH, 1: Dimension("length")}
        return Signature((Input("words", free),), (Output("scores", classes=1),), "test/accuracy")

    def export_inputs(self, batch: Any) -> tuple[Tensor, ...]:
        return (batch["words"],)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.test_scores.update(self(batch["words"]), batch["label"])

    def on_test_epoch_end(self) -> None:
        self.test_scores.log_and_reset(self)


class RecurrentClassifier(TextClassifier):
    """The same with an LSTM, whose length torch.export takes for a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 16, batch_first=True)

    def forward(self, words_BT: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(words_BT))[0].mean(1))


class Generator(pl.LightningModule):
    """Two inputs, a dict of two outputs, no decision and no metric that export could worsen."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.up = nn.Sequential(
            nn.Linear(12, 32), nn.ReLU(), nn.Unflatten(1, (2, 4, 4)), nn.ConvTranspose2d(2, 1, 4, 2, 1)
        )

    def forward(self, noise_BZ: Tensor, label_B: Tensor) -> dict[str, Tensor]:
        image_BCHW = torch.tanh(self.up(torch.cat([noise_BZ, self.embedding(label_B)], dim=1)))
        return {"image": image_BCHW, "brightness": image_BCHW.mean(dim=(1, 2, 3))}

    def export_signature(self) -> Signature:
        return Signature((Input("noise"), Input("label")), (Output("image"), Output("brightness")))

    def export_inputs(self, batch: Any) -> tuple[Tensor, ...]:
        draw = torch.Generator().manual_seed(int(batch["label"].sum()))
        return torch.randn(len(batch["label"]), 8, generator=draw), batch["label"]

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test/brightness", self(*self.export_inputs(batch))["brightness"].mean(), batch_size=1)


class TwoHeads(pl.LightningModule):
    """Class scores and the scores of a mask, as of lesson 18."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 4, 3, padding=1)
        self.pixels, self.classes = nn.Conv2d(4, 2, 1), nn.Linear(4, 3)

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        features_BCHW = torch.relu(self.body(image_BCHW))
        return self.classes(features_BCHW.mean(dim=(2, 3))), self.pixels(features_BCHW)

    def export_signature(self) -> Signature:
        outputs = (Output("class_scores", classes=1), Output("mask_scores", classes=1))
        return Signature((Input("image"),), outputs, ("test/accuracy", "test/foreground_iou"))

    def export_inputs(self, batch: Any) -> tuple[Tensor, ...]:
        return (batch["image"],)


class Batches:
    """Batches as a loader: Lightning takes a list for several loaders."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = list(batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Texts(pl.LightningDataModule):
    """Forty texts of one length, with ids and labels."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.words = torch.randint(WORDS, (40, LENGTH), generator=draw)

    def test_dataloader(self) -> "Batches":
        return Batches(
            {"words": part, "label": part.sum(1) % 2, "id": [f"text/{8 * number + i}" for i in range(8)]}
            for number, part in enumerate(self.words.split(8))
        )

    train_dataloader = test_dataloader


class Unstable(nn.Module):
    """A network that decides in Python, by the size of its batch: a trace holds one of the two ways only."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        scores_BK = self.head(image_BCHW.flatten(1))
        return scores_BK if image_BCHW.shape[0] == 2 else scores_BK.roll(1, dims=1)


def certificate(run: Run) -> dict[str, Any]:
    """The rows of a run's verification, one for each format."""
    return json.loads((run.path / "export" / "verification.json").read_text())["rows"]
