"""Metrics whose values do not depend on how the samples are divided into batches and processes."""

from collections.abc import Callable, Mapping
from typing import Any, Self

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassStatScores


class SampleMean(Metric):
    """The mean of a per-sample quantity, summed in double precision.

    A mean of batch means overweights the samples of a short last batch, and a sum in single precision depends on the
    order of the batches.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, values: Tensor) -> None:
        """Adds the values of some samples, of shape [B]."""
        self.total += values.sum(dtype=torch.float64)
        self.count += values.numel()

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Self:
        # Converting the model to half precision must not convert the sum.
        super()._apply(fn, *args, **kwargs)
        self.total = self.total.double()
        self._defaults["total"] = torch.zeros((), dtype=torch.float64)
        return self

    def compute(self) -> Tensor:
        """Returns the mean over all samples of all processes; nan for none."""
        return self.total / self.count


class StepMeans:
    """Averages training values over the batches of one optimizer step."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, trainer: pl.Trainer, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Adds the values of one batch, means over its samples times its ``rank_weight``; for ``training_step``.

        Returns:
            The means over the step if this is its last batch and the loggers record the step, otherwise nothing.
        """
        if not is_logging_step(trainer):
            return {}
        batches = trainer.accumulate_grad_batches
        if (trainer.fit_loop.epoch_loop.batch_progress.current.ready - 1) % batches == 0:
            self._sums = {}  # a stop in the middle of a step may have left some
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value.detach() / batches
        if not takes_step(trainer):
            return {}
        sums, self._sums = self._sums, {}
        return sums


def in_full(scores: Tensor) -> Tensor:
    """Returns scores in single precision or better, whatever precision the model computes in."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def probabilities(scores: Tensor, dim: int = 1) -> Tensor:
    """Returns the softmax in single precision or better; its largest entry is the decision everywhere in the suite."""
    return in_full(scores).softmax(dim)


class AccuracyPerClass(MulticlassStatScores):
    """The accuracy of each class [K]; nan for a class without samples."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, average="none")

    def compute(self) -> Tensor:
        """Returns the accuracy of each class over all samples of all processes."""
        right_K, _, _, missed_K = self._final_state()
        return right_K.double() / (right_K + missed_K)  # 0 / 0 is nan


class ClassificationScores(nn.Module):
    """Loss, accuracy and macro F1 of one stage, exact over all samples and processes.

    Args:
        num_classes: classes, 2 or more.
        stage: first part of the metric names, such as ``val``.
    """

    def __init__(self, num_classes: int, stage: str) -> None:
        super().__init__()
        self.stage = stage
        self.loss = SampleMean()
        self.rates = MetricCollection(
            {"accuracy": MulticlassAccuracy(num_classes, average="micro"), "f1": MulticlassF1Score(num_classes)},
            prefix=f"{stage}/",
        )

    def update(self, logits_BK: Tensor, label_B: Tensor, predicted_B: Tensor | None = None) -> None:
        """Adds the scores of some samples.

        Args:
            logits_BK: class scores of any precision.
            label_B: the true classes.
            predicted_B: the predicted classes; None takes them from `probabilities`, as the models' predictions do.
        """
        self.loss.update(functional.cross_entropy(in_full(logits_BK), label_B, reduction="none"))
        self.rates.update(probabilities(logits_BK).argmax(dim=1) if predicted_B is None else predicted_B, label_B)

    def log_and_reset(self, module: pl.LightningModule) -> None:
        """Logs the scores and resets them; a collective that every rank must call, also one without samples."""
        values: dict[str, Any] = {f"{self.stage}/loss": self.loss.compute(), **self.rates.compute()}
        self.loss.reset()
        self.rates.reset()
        # The values are equal on all ranks already; without sync_dist Lightning warns.
        module.log_dict(values, prog_bar=self.stage == "val", sync_dist=True)


def takes_step(trainer: pl.Trainer) -> bool:
    """Whether this training batch ends an optimizer step; otherwise its gradients are accumulated."""
    return not trainer.fit_loop.epoch_loop._should_accumulate()


def is_logging_step(trainer: pl.Trainer) -> bool:
    """Whether the loggers record this optimizer step (all batches of it), one in ``log_every_n_steps``."""
    every: int = trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]  (set by a connector)
    return every > 0 and (trainer.fit_loop.epoch_loop._batches_that_stepped + 1) % every == 0
