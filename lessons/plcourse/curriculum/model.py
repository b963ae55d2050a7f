"""A classifier with per-sample losses, so that a curriculum can weigh and score samples.

Shapes: B samples of the batch, C channels, H rows, W columns, K classes.
"""

import math
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional

from plcourse.curriculum.self_paced import Weigher
from plcourse.training.metrics import ClassificationScores, StepMeans, probabilities
from plcourse.training.schedules import WarmupCosine, with_schedule


class CurriculumClassifier(pl.LightningModule):
    """Classifies images with any network that maps [B, C, H, W] to class scores [B, K].

    Logs every ``log_every_n_steps`` steps ``train/loss`` (the minimized objective), ``train/lr``, ``train/share`` (the
    admitted fraction of the training part) and, with self-paced weights, ``train/age`` and ``train/selected`` (the
    fraction of the batch with weights above 0); and ``<stage>/loss``, ``<stage>/accuracy`` and ``<stage>/f1`` (macro)
    for val and test.

    Args:
        network: maps images to ``num_classes`` scores.
        num_classes: classes, 2 or more.
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

    def sample_losses(self, batch: dict[str, Any]) -> Tensor:
        """The cross-entropy of each sample in nats, [B]."""
        return functional.cross_entropy(self(batch["image"]), batch["label"], reduction="none")

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The weighted mean loss of this process's slice, scaled so that the mean over processes is exact.

        The sum of the weighted losses is divided by the number of samples, not by the sum of the weights. This is the
        objective of self-paced learning, and it splits over processes since each weight depends on its sample alone.
        """
        loss_B = self.sample_losses(batch)
        weigher: Weigher | None = batch.get("weigher")
        weight_B = None if weigher is None else weigher(loss_B.detach())
        rank_weight = batch.get("rank_weight", 1.0)  # batches of other data modules lack it
        loss = (loss_B if weight_B is None else weight_B * loss_B).mean() * rank_weight
        values = {"train/loss": loss}
        if weight_B is not None:
            values["train/selected"] = (weight_B > 0).float().mean() * rank_weight
        if step_means := self._step_means.add(self.trainer, values):
            for name, value in step_means.items():
                self.log(name, value, prog_bar=name == "train/loss", sync_dist=True, batch_size=1)
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=1)
            if "share" in batch:
                self.log("train/share", batch["share"], batch_size=1)
            if weigher is not None and math.isfinite(weigher.age):
                self.log("train/age", weigher.age, batch_size=1)
        return loss

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
