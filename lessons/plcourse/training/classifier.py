"""The base class of several lessons' image classifiers: exact scores, logs per step, predictions, the optimizer."""

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from plcourse.training.metrics import ClassificationScores, StepMeans, probabilities
from plcourse.training.schedules import WarmupCosine, with_schedule


class ImageClassifierModule(pl.LightningModule):
    """Classifies images; a subclass adds ``training_step``.

    Logs ``<stage>/loss``, ``<stage>/accuracy`` and ``<stage>/f1`` (macro) for val and test, exact over all samples and
    processes.

    Args:
        network: maps images [B, C, H, W] to class scores [B, K].
        num_classes: K, 2 or more.
        optimizer: builds the optimizer from the parameters.
        lr_scheduler: builds the schedule from the optimizer, stepped per optimizer step; None for a constant rate.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int = 10,
        optimizer: OptimizerCallable = lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
        lr_scheduler: LRSchedulerCallable | None = WarmupCosine,
    ) -> None:
        super().__init__()
        self.network = network
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self._step_means = StepMeans()
        self.val_scores = ClassificationScores(num_classes, "val")
        self.test_scores = ClassificationScores(num_classes, "test")

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Maps normalized images [B, C, H, W] to class scores [B, K]."""
        return self.network(image_BCHW)

    def log_step(self, values: Mapping[str, Tensor]) -> bool:
        """Logs means over the optimizer step, and the learning rate.

        Looking at a loss costs more than the step of a small network, so this does nothing except in the last batch of
        every ``log_every_n_steps``-th step.

        Args:
            values: means over the samples of this process's batch, times ``rank_weight``.

        Returns:
            Whether it has logged.
        """
        means = self._step_means.add(self.trainer, values)
        for name, value in means.items():
            self.log(name, value, prog_bar=name == "train/loss", sync_dist=True, batch_size=1)
        if means:
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=1)
        return bool(means)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Adds a batch to the validation scores."""
        self.val_scores.update(self(batch["image"]), batch["label"])

    def on_validation_epoch_end(self) -> None:
        """Logs the validation scores; runs on every rank, even one without samples."""
        self.val_scores.log_and_reset(self)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Adds a batch to the test scores."""
        self.test_scores.update(self(batch["image"]), batch["label"])

    def on_test_epoch_end(self) -> None:
        """Logs the test scores; runs on every rank, even one without samples."""
        self.test_scores.log_and_reset(self)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """The ids of the samples, the predicted classes [B], and the probabilities [B, K]."""
        probability_BK = probabilities(self(batch["image"]))
        return {"id": batch["id"], "label": probability_BK.argmax(dim=1), "probability": probability_BK}

    def configure_optimizers(self) -> Any:
        """Builds the optimizer and its schedule."""
        return with_schedule(self, self.optimizer(self.parameters()), self.lr_scheduler)
