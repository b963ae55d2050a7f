"""A classifier with per-sample losses, so that a curriculum can weigh and score samples.

Shapes: B samples of the batch, C channels, H rows, W columns, K classes.
"""

import math

from torch import Tensor
from torch.nn import functional

from plcourse.curriculum.self_paced import Weigher
from plcourse.data import Batch
from plcourse.training.classifier import ImageClassifierModule


class CurriculumClassifier(ImageClassifierModule):
    """Classifies images with any network that maps [B, C, H, W] to class scores [B, K].

    Logs every ``log_every_n_steps`` steps ``train/loss`` (the minimized objective), ``train/lr``, ``train/share`` (the
    admitted fraction of the training part) and, with self-paced weights, ``train/age`` and ``train/selected`` (the
    fraction of the batch with weights above 0). In validation and test it logs what `ImageClassifierModule` logs.
    """

    def sample_losses(self, batch: Batch) -> Tensor:
        """The cross-entropy of each sample in nats, [B]."""
        return functional.cross_entropy(self(batch["image"]), batch["label"], reduction="none")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
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
        if self.log_step(values):
            if "share" in batch:
                self.log("train/share", batch["share"], batch_size=1)
            if weigher is not None and math.isfinite(weigher.age):
                self.log("train/age", weigher.age, batch_size=1)
        return loss
