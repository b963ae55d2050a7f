"""Lesson 12: one classifier, trained by one process or by several that take the same steps.

The idea: each of W processes computes the gradients of its slice of a batch. They are averaged before every step, so
that all processes keep the same weights and the step is that of the whole batch (PyTorch DDP, Li et al. 2020, arXiv
2006.15704). The mean over processes is the mean over samples only if all slices have the same size; `rank_weight`
corrects for the last, uneven batch.

    plcourse fit -c ddp/two_processes --then test

Shapes: B samples of the batch, C channels, H rows, W columns, K classes.
"""

from typing import Any

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn import functional

from plcourse.training.classifier import ImageClassifierModule
from plcourse.training.schedules import WarmupCosine, with_schedule


class ImageClassifier(ImageClassifierModule):
    """Classifies images with any network that maps [B, C, H, W] to class scores [B, K].

    Logs ``train/loss`` (of the step, over all its samples) and ``train/lr`` every ``log_every_n_steps`` steps; in
    validation and test what `ImageClassifierModule` logs.

    Args:
        network: maps images to ``num_classes`` scores.
        num_classes: classes, 2 or more.
        optimizer: builds the optimizer from the parameters.
        lr_scheduler: builds the schedule from the optimizer, stepped per optimizer step; None for a constant rate.
        label_smoothing: probability mass moved from the label to all classes in training, 0 to 1.
        linear_scaling: multiply the learning rate by the numbers of processes and of accumulated batches (Goyal et al.
            2017, arXiv 1706.02677, section 2.1), so that the configured rate is for ``batch_size`` samples. Use it
            with a warm-up.
        channels_last: a memory format in which convolutions run faster on GPUs. Leave it off on CPUs: strided 1x1
            convolutions of a few channels have crashed in torch 2.15's oneDNN.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int = 10,
        optimizer: OptimizerCallable = lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
        lr_scheduler: LRSchedulerCallable | None = WarmupCosine,
        label_smoothing: float = 0.0,
        linear_scaling: bool = False,
        channels_last: bool = False,
    ) -> None:
        network = network.to(memory_format=torch.channels_last) if channels_last else network
        super().__init__(network, num_classes, optimizer, lr_scheduler)
        self.label_smoothing, self.linear_scaling = label_smoothing, linear_scaling
        self.channels_last = channels_last

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Maps normalized images [B, C, H, W] to class scores [B, K]."""
        if self.channels_last:
            image_BCHW = image_BCHW.contiguous(memory_format=torch.channels_last)
        return self.network(image_BCHW)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The mean cross-entropy of this process's slice, weighted so that the mean over processes is exact."""
        loss = functional.cross_entropy(self(batch["image"]), batch["label"], label_smoothing=self.label_smoothing)
        weight = batch.get("rank_weight", 1.0)  # batches of other data modules lack it
        if weight != 1.0:
            loss = loss * weight
        self.log_step({"train/loss": loss})
        return loss

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Builds the optimizer and its schedule."""
        optimizer = self.optimizer(self.parameters())
        if self.linear_scaling:
            for group in optimizer.param_groups:
                group["lr"] *= self.trainer.world_size * self.trainer.accumulate_grad_batches
        return with_schedule(self, optimizer, self.lr_scheduler)
