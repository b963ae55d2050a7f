"""Lesson 14's regressor for tables: standardized features in, values in the target's own units out.

    plcourse fit -c kfold/regression --then validate,test

Shapes: B rows of the batch, F features.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from plcourse.data import Batch
from plcourse.training.exportable import Input, Output, Signature
from plcourse.training.metrics import SampleMean, StepMeans
from plcourse.training.schedules import WarmupCosine, with_schedule


class RegressionScores(nn.Module):
    """The errors of one stage (val or test) in the target's units, exact over all samples and processes."""

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage = stage
        self.squared, self.absolute = SampleMean(), SampleMean()

    def update(self, value_B: Tensor, label_B: Tensor) -> None:
        """Adds the errors of a batch."""
        error_B = value_B.double() - label_B.double()
        self.squared.update(error_B.square())
        self.absolute.update(error_B.abs())

    def log_and_reset(self, module: pl.LightningModule, variance: Tensor) -> None:
        """Logs and resets the scores; a collective, to be called on every rank, even one without samples."""
        squared, absolute = self.squared.compute(), self.absolute.compute()
        self.squared.reset()
        self.absolute.reset()
        scores = {"loss": squared / variance, "rmse": squared.sqrt(), "mae": absolute}
        named = {f"{self.stage}/{name}": value for name, value in scores.items()}
        module.log_dict(named, prog_bar=self.stage == "val", sync_dist=True)  # equal on all ranks


class TableRegressor(pl.LightningModule):
    """Predicts a value from the features of a row.

    The network predicts standardized targets, with the mean and standard deviation of the training part; ``forward``
    returns values in the target's own units. Logs ``train/loss`` and ``train/lr`` every ``log_every_n_steps`` steps,
    and ``<stage>/loss``, ``<stage>/rmse`` and ``<stage>/mae`` for val and test.

    Args:
        in_features: number of features.
        hidden: width of each hidden layer; empty for a linear model.
        dropout: fraction of the hidden features dropped in training, 0 to 1.
        optimizer: builds the optimizer from the parameters.
        lr_scheduler: builds the schedule from the optimizer, stepped per optimizer step; None for a constant rate.
    """

    target_mean: Tensor
    target_std: Tensor

    def __init__(
        self,
        in_features: int = 10,
        hidden: Sequence[int] = (32,),
        dropout: float = 0.0,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=0.01, weight_decay=0.1),
        lr_scheduler: LRSchedulerCallable | None = WarmupCosine,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise([in_features, *hidden]):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
        self.network = nn.Sequential(*layers, nn.Linear([in_features, *hidden][-1], 1))
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.register_buffer("target_mean", torch.zeros(()))
        self.register_buffer("target_std", torch.ones(()))
        self._step_means = StepMeans()
        self.val_scores, self.test_scores = RegressionScores("val"), RegressionScores("test")

    def setup(self, stage: str) -> None:
        """Takes mean and standard deviation of the targets from the data module, if it has them."""
        scale = getattr(self.trainer.datamodule, "scale", None)  # pyright: ignore[reportAttributeAccessIssue]  (set late)
        if stage == "fit" and scale is not None:
            self.target_mean.fill_(scale["target_mean"])
            self.target_std.fill_(scale["target_std"])

    def forward(self, features_BF: Tensor) -> Tensor:
        """Maps standardized features [B, F] to values [B] in the target's units."""
        return self.target_mean + self.target_std * self.network(features_BF).squeeze(1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The mean squared error in units of the target's variance, weighted as in lesson 12."""
        error_B = (self(batch["features"]) - batch["label"]) / self.target_std
        loss = error_B.square().mean() * batch.get("rank_weight", 1.0)
        for name, value in self._step_means.add(self.trainer, {"train/loss": loss}).items():
            self.log(name, value, prog_bar=True, sync_dist=True, batch_size=1)
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=1)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the validation scores."""
        self.val_scores.update(self(batch["features"]), batch["label"])

    def on_validation_epoch_end(self) -> None:
        """Logs the validation scores; runs on every rank."""
        self.val_scores.log_and_reset(self, self.target_std.double().square())

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch to the test scores."""
        self.test_scores.update(self(batch["features"]), batch["label"])

    def on_test_epoch_end(self) -> None:
        """Logs the test scores; runs on every rank."""
        self.test_scores.log_and_reset(self, self.target_std.double().square())

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, list[str] | Tensor]:
        """The ids of the rows, and the values [B] in the target's units."""
        return {"id": batch["id"], "prediction": self(batch["features"])}

    def export_signature(self) -> Signature:
        """Standardized features in, values in the target's units out, without a decision."""
        return Signature((Input("features"),), (Output("value"),), "test/loss", "min")

    def export_inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """The standardized features [B, F]."""
        return (batch["features"],)

    def configure_optimizers(self) -> Any:
        """Builds the optimizer and its schedule."""
        return with_schedule(self, self.optimizer(self.parameters()), self.lr_scheduler)
