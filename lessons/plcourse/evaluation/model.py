"""Lesson 16: a classifier that reports how uncertain it is, and why.

The idea: average several predictions, and use their disagreement to tell noise in the data from ignorance of the model.
The predictions come from the members of an ensemble, from the checkpoints of several runs or folds, or from dropout
that stays switched on. `plcourse.evaluation.uncertainty` has the equations.

    plcourse fit -c evaluation/classifier --then test,predict

Shapes: M members, B samples of the batch, K classes, D features, E embedding.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional

from plcourse.data import Augmentation, augment_batch, keys_of, run_seed
from plcourse.data.randoms import stream
from plcourse.errors import UserError
from plcourse.evaluation.members import embedding_of, find_checkpoints, load_members
from plcourse.evaluation.uncertainty import decompose, dropout_on
from plcourse.training.classifier import ImageClassifierModule
from plcourse.training.exportable import is_replaced
from plcourse.training.metrics import in_full, probabilities
from plcourse.training.schedules import WarmupCosine

Batch = dict[str, Any]  # the fields of B samples


class Classifier(ImageClassifierModule):
    """Classifies images or rows of features, with uncertainties.

    Logs ``train/loss`` and ``train/lr`` every ``log_every_n_steps`` steps, and ``<stage>/loss``, ``<stage>/accuracy``,
    ``<stage>/f1`` (macro) of the averaged probabilities for val and test.

    Args:
        network: maps a batch to class scores [B, K], or to the scores of several members [M, B, K] as `Ensemble` does.
        num_classes: number of classes, 2 or more.
        optimizer: builds the optimizer from the parameters.
        lr_scheduler: builds the schedule from the optimizer, stepped per optimizer step; None for a constant rate.
        mc_samples: passes with dropout per prediction; 0 makes one pass without dropout.
        ensemble: checkpoints, runs, or patterns of them, whose networks are averaged with this one in test and
            prediction; ``runs/kfold/classifier/latest/folds/*`` takes the folds of a cross-validation.
        tta: test-time augmentations of images; None for none.
        tta_views: augmented views that are averaged with the image itself.
        embedding: whether `predict_step` also returns the input of the last linear layer.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int = 10,
        optimizer: OptimizerCallable = lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
        lr_scheduler: LRSchedulerCallable | None = WarmupCosine,
        mc_samples: int = 0,
        ensemble: list[str] | None = None,
        tta: list[Augmentation] | None = None,
        tta_views: int = 8,
        embedding: bool = False,
    ) -> None:
        super().__init__(network, num_classes, optimizer, lr_scheduler)
        if mc_samples < 0 or tta_views < 0:
            raise ValueError(f"mc_samples={mc_samples}, tta_views={tta_views}: give 0 or more")
        self.mc_samples, self.embedding = mc_samples, embedding
        self.tta, self.tta_views = list(tta or ()), tta_views if tta else 0
        self.ensemble = find_checkpoints(ensemble or ())
        self._others: tuple[nn.Module, ...] = ()  # a tuple is not registered, so checkpoints leave them out

    def ensemble_digests(self) -> list[str]:
        """The SHA-256 of each of the ensemble's files, whose weights predictions depend on too."""
        return [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in self.ensemble]

    def forward(self, x_B: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]  (not only images)
        """Maps normalized images [B, C, H, W] or features [B, D] to scores [B, K].

        For an `Ensemble` they are the logarithm of its members' summed probabilities; their softmax is the mean.
        """
        scores = self.network(x_B)
        if scores.ndim == 2:
            return scores
        return in_full(scores).log_softmax(dim=-1).logsumexp(dim=0)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the mean cross-entropy, summed over the members so that each gets the gradient it would get alone."""
        scores_MBK = _as_members(self.network(_inputs(batch)))
        losses = [functional.cross_entropy(scores_BK, batch["label"]) for scores_BK in scores_MBK]
        loss = torch.stack(losses).sum() * batch.get("rank_weight", 1.0)
        self.log_step({"train/loss": loss / len(losses)})
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds one batch to the validation scores, without dropout samples and views, to save time."""
        probability_BK = probabilities(_as_members(self.network(_inputs(batch))), -1).mean(dim=0)
        self.val_scores.update(_log(probability_BK), batch["label"], probability_BK.argmax(dim=1))

    # it returns a value, unlike the base, because the diagnostics need the predictions
    def test_step(self, batch: Batch, batch_idx: int) -> Batch:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Adds one batch to the test scores and returns its predictions for the diagnostics."""
        prediction = self.predict_step(batch, batch_idx)
        self.test_scores.update(_log(prediction["probability"]), batch["label"], prediction["label"])
        return prediction

    def on_predict_start(self) -> None:
        """Loads the other members of the ensemble."""
        members = load_members(self.network, self.ensemble, self._trainer)
        self._others = tuple(member.to(self.device) for member in members)

    on_test_start = on_predict_start

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """Returns the columns ``id``, ``label``, ``probability`` [B, K] and the uncertainties of `decompose`.

        With a single opinion, ``total`` is the only uncertainty. ``embedding`` [B, E] is that of this network alone.
        """
        probability_MBK = self.opinions(batch)
        probability_BK = probability_MBK.mean(dim=0)
        uncertainty = decompose(probability_MBK)
        if len(probability_MBK) == 1:
            uncertainty = {"total": uncertainty["total"]}
        columns = {"id": batch["id"], "label": probability_BK.argmax(dim=1), "probability": probability_BK}
        if "written" in batch:
            columns["text"] = batch["written"]
        if self.embedding:
            columns["embedding"] = embedding_of(self.network, _inputs(batch))
        return {**columns, **uncertainty}

    def opinions(self, batch: Batch) -> Tensor:
        """The class probabilities of every member and every dropout sample [M, B, K], averaged over the views.

        An exported file that replaces ``forward`` is a single opinion, because it returns the average of its members.
        """
        views = self._views(batch)
        if is_replaced(self):
            return _over_views(self, views)
        found: list[Tensor] = []
        for member, network in enumerate((self.network, *self._others)):
            if self.mc_samples:
                with dropout_on(network, self._seed(batch, member)):
                    found += [_over_views(network, views) for _ in range(self.mc_samples)]
            else:
                found.append(_over_views(network, views))
        return torch.cat(found)

    def _views(self, batch: Batch) -> list[Tensor]:
        x_B = _inputs(batch)
        if not self.tta:
            return [x_B]
        if x_B.ndim != 4:
            raise UserError("model.tta is for images, and this model gets rows of features; leave it out")
        # augmentations fill uncovered pixels with 0, which in a normalized image is the mean rather than black
        low_B111 = x_B.amin(dim=(1, 2, 3), keepdim=True)
        keys_B, raised_B = keys_of(batch["id"]), (x_B - low_B111).cpu()
        views = (augment_batch(self.tta, raised_B, run_seed(), view, keys_B) for view in range(self.tta_views))
        return [x_B, *(view_B.to(x_B.device) + low_B111 for view_B in views)]

    def _seed(self, batch: Batch, member: int) -> int:
        """A seed of the batch's first sample, so that masks are the same after a kill and on any rank."""
        first = keys_of(batch["id"][:1])
        return int(stream(run_seed(), member, int(first[0]))[0] >> np.uint64(1))


def _inputs(batch: Batch) -> Tensor:
    return batch["image"] if "image" in batch else batch["features"]


def _as_members(scores: Tensor) -> Tensor:
    return scores if scores.ndim == 3 else scores[None]


def _over_views(network: nn.Module, views: list[Tensor]) -> Tensor:
    """The probabilities of a network's members [M, B, K], averaged over the views."""
    return torch.stack([probabilities(_as_members(network(x_B)), -1) for x_B in views]).mean(dim=0)


def _log(probability: Tensor) -> Tensor:
    """Scores whose softmax is the probability; the clamp keeps the loss of a certain error finite."""
    return probability.clamp_min(torch.finfo(probability.dtype).tiny).log()
