"""Lesson 14 on one page: cross-validation scores a way of training, not one trained model.

    python -m plcourse.kfold.minimal

Divide the samples into k folds. For each fold, train a fresh copy of the same model on the other k - 1 folds and score
it on this one (Stone 1974). The estimate is the mean of the k scores. The scores are not independent, because any two
training sets share most of their samples, so the variance of the mean is corrected (Nadeau and Bengio 2003, section 3).

Shape suffixes: B rows of the batch, F features.
"""

import copy
import logging
import math

import numpy as np
import pytorch_lightning as pl
import torch
from scipy import stats
from sklearn.model_selection import KFold
from torch import Tensor, nn

from plcourse.kfold.data import TableData


class Regressor(pl.LightningModule):
    """Predicts disease progression, in the units of the target, from standardized features."""

    def __init__(self, in_features: int = 10) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(in_features, 32), nn.ReLU(), nn.Linear(32, 1))
        self.squared_errors: list[Tensor] = []

    def setup(self, stage: str) -> None:
        """Takes the scale of the target from the fold's training part, so that nothing is fitted to held-out data."""
        scale = self.trainer.datamodule.scale  # pyright: ignore[reportAttributeAccessIssue]  (Lightning sets it late)
        self.mean, self.std = scale["target_mean"], scale["target_std"]

    def forward(self, features_BF: Tensor) -> Tensor:
        """Features [B, F] in, values [B] out."""
        return self.mean + self.std * self.network(features_BF).squeeze(1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """The mean squared error, in units of the target's variance."""
        return ((self(batch["features"]) - batch["label"]) / self.std).square().mean()

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Collects the squared errors, since a mean of batch means gives the rows of a short batch too much weight."""
        self.squared_errors.append((self(batch["features"]).double() - batch["label"].double()).square())

    def on_validation_epoch_end(self) -> None:
        """Logs the root of the mean squared error."""
        self.log("val/rmse", torch.cat(self.squared_errors).mean().sqrt())
        self.squared_errors.clear()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW at a constant rate."""
        return torch.optim.AdamW(self.parameters(), lr=0.01)


def cross_validate(data: TableData, n_splits: int = 5, max_epochs: int = 20, seed: int = 0) -> list[float]:
    """The validation score of each fold."""
    pl.seed_everything(seed, verbose=False)
    fresh = Regressor()
    data.setup("fit")
    ids, scores = list(data.ids), []
    for train, val in KFold(n_splits, shuffle=True, random_state=seed).split(ids):
        model = copy.deepcopy(fresh)  # every fold starts from the same untrained weights
        fold = data.with_split([ids[i] for i in train], [ids[i] for i in val])  # standardized within the fold
        trainer = pl.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=max_epochs,
            num_sanity_val_steps=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, fold)
        scores.append(trainer.validate(model, fold, verbose=False)[0]["val/rmse"])
    return scores


def corrected_interval(scores: list[float], confidence: float = 0.95) -> tuple[float, float, float]:
    """Mean of the scores of k folds, and the ends of its corrected interval."""
    k = len(scores)
    test_to_train = 1 / (k - 1)  # a fold has 1/k of the samples, its training part the other (k - 1)/k
    error = math.sqrt((1 / k + test_to_train) * float(np.var(scores, ddof=1)))  # the naive error lacks the second term
    reach = float(stats.t.ppf((1 + confidence) / 2, df=k - 1)) * error
    mean = float(np.mean(scores))
    return mean, mean - reach, mean + reach


if __name__ == "__main__":
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    fold_scores = cross_validate(TableData("diabetes"))
    print("rmse of each fold:", ", ".join(f"{score:.1f}" for score in fold_scores))
    print("mean {:.1f}, 95 % interval {:.1f} to {:.1f}".format(*corrected_interval(fold_scores)))
