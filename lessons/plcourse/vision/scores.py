"""The metrics of both tasks, exact over all samples and processes because their states are counts.

Shape suffixes: B samples, K classes, M pixel classes, H height, W width.
"""

import re
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassF1Score

from plcourse.data.masks import IGNORE
from plcourse.training.metrics import AccuracyPerClass, SampleMean, in_full, probabilities

PER_CLASS = 50  # log one metric per class up to this many classes


class VisionScores(nn.Module):
    """All metrics of one stage.

    Args:
        stage: the prefix of the names, such as ``val``.
        label_names: one per class; empty without a classifier.
        mask_names: one per pixel class; empty without a segmenter.
        per_class: whether to log the accuracy of each class too.
    """

    def __init__(
        self, stage: str, label_names: Sequence[str], mask_names: Sequence[str], per_class: bool = False
    ) -> None:
        super().__init__()
        self.stage, self.label_names, self.mask_names = stage, _plain(label_names), _plain(mask_names)
        self.loss = SampleMean()
        of_class: dict[str, Metric | MetricCollection] = {}
        of_mask: dict[str, Metric | MetricCollection] = {}
        if label_names:
            classes = len(label_names)
            of_class |= {"accuracy": MulticlassAccuracy(classes, average="micro"), "f1": MulticlassF1Score(classes)}
            if per_class and classes <= PER_CLASS:
                of_class["accuracy_"] = AccuracyPerClass(classes)
        if mask_names:
            of_mask["confusion"] = MulticlassConfusionMatrix(len(mask_names), ignore_index=IGNORE)
            of_mask["boundary_f1"] = BoundaryF1(len(mask_names))
        self.of_class, self.of_mask = MetricCollection(of_class), MetricCollection(of_mask)

    def update(self, loss_B: Tensor, class_BK: Tensor | None, mask_BMHW: Tensor | None, batch: dict[str, Any]) -> None:
        """Adds samples: their losses, and the scores of the heads that exist."""
        self.loss.update(loss_B)
        if class_BK is not None:
            self.of_class.update(probabilities(class_BK).argmax(dim=1), batch["label"])
        if mask_BMHW is not None:
            self.of_mask.update(in_full(mask_BMHW).argmax(dim=1), batch["mask"])

    def compute(self) -> dict[str, Tensor]:
        """Every metric by name, except undefined ones such as the accuracy of a class without samples."""
        found = {"loss": self.loss.compute()}
        if of_class := self.of_class.compute():
            found |= {name: of_class[name] for name in ("accuracy", "f1")}
            accuracies = of_class.get("accuracy_", ())
            found |= {f"accuracy_{label}": each for label, each in zip(self.label_names, accuracies, strict=False)}
        if of_mask := self.of_mask.compute():
            found |= overlaps(of_mask["confusion"].double(), self.mask_names)
            found["boundary_f1"] = of_mask["boundary_f1"]
        return {f"{self.stage}/{name}": value for name, value in found.items() if name == "loss" or not value.isnan()}

    def log_and_reset(self, module: pl.LightningModule) -> None:
        """Logs and resets all metrics; a collective, which every rank must call, even one without samples."""
        values = self.compute()
        for metric in (self.loss, self.of_class, self.of_mask):
            metric.reset()
        shown = {f"{self.stage}/{name}" for name in ("loss", "accuracy", "foreground_iou")}
        # sync_dist averages values that are already equal on all ranks; without it Lightning warns
        for name, value in values.items():  # equal values give equal names on every rank
            module.log(name, value.float(), prog_bar=self.stage == "val" and name in shown, sync_dist=True)


def overlaps(confusion_MM: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """IoU and Dice over all samples, from the pixels' confusion matrix (rows are true classes).

    The means omit a class that is neither present nor predicted; they are nan if no class is left.
    """
    both_M = confusion_MM.diagonal()
    sum_M = confusion_MM.sum(dim=0) + confusion_MM.sum(dim=1)
    seen_M = sum_M > 0
    iou_M, dice_M = both_M / (sum_M - both_M), 2 * both_M / sum_M
    found = {
        "mean_iou": iou_M[seen_M].mean(),
        "foreground_iou": iou_M[1:][seen_M[1:]].mean(),
        "dice": dice_M[1:][seen_M[1:]].mean(),
    }
    if len(names) <= PER_CLASS:
        found |= {f"iou_{name}": iou_M[i] for i, name in enumerate(names)}
        found |= {f"dice_{name}": dice_M[i] for i, name in enumerate(names)}
    return found


class BoundaryF1(Metric):
    """The boundary F1, which measures how well outlines agree (Csurka et al. 2013, section 2.3).

    A boundary pixel is correct if the other mask has a boundary pixel of the same class within ``tolerance`` pixels.
    Precision and recall are taken over all boundary pixels of all samples; the result is the mean F1 over all classes
    with a boundary, except class 0. The image border does not count as a boundary.

    Args:
        mask_classes: pixel classes, 2 or more.
        tolerance: pixels, 0 or more.
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, mask_classes: int, tolerance: int = 1) -> None:
        super().__init__()
        self.mask_classes, self.tolerance = mask_classes, tolerance
        # per class: predicted boundary pixels, the correct ones among them, true ones, the found ones among these
        self.add_state("counts", torch.zeros(mask_classes - 1, 4, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, predicted_BHW: Tensor, mask_BHW: Tensor) -> None:
        """Adds samples; pixels of unknown class have no boundary."""
        known_BHW = mask_BHW != IGNORE
        for i in range(self.mask_classes - 1):
            own_BHW = _boundary((predicted_BHW == i + 1) & known_BHW) & known_BHW
            true_BHW = _boundary(mask_BHW == i + 1) & known_BHW
            right, found = own_BHW & _wider(true_BHW, self.tolerance), true_BHW & _wider(own_BHW, self.tolerance)
            self.counts[i] += torch.stack([each.sum() for each in (own_BHW, right, true_BHW, found)])

    def compute(self) -> Tensor:
        """The mean over the classes; nan without any boundary."""
        own, right, true, found = self.counts.double().unbind(dim=1)
        precision, recall = right / own.clamp_min(1), found / true.clamp_min(1)
        f1 = 2 * precision * recall / (precision + recall).clamp_min(1e-12)
        there = own + true > 0
        return f1[there].mean()


def _boundary(inside_BHW: Tensor) -> Tensor:
    """The pixels of a region with at least one of their eight neighbors outside it."""
    outside_B1HW = (~inside_BHW).float()[:, None]
    return inside_BHW & (functional.max_pool2d(outside_B1HW, 3, 1, 1)[:, 0] > 0)


def _wider(pixels_BHW: Tensor, by: int) -> Tensor:
    return functional.max_pool2d(pixels_BHW.float()[:, None], 2 * by + 1, 1, by)[:, 0] > 0


def _plain(names: Sequence[str]) -> list[str]:
    """Names that fit into a metric name; numbers if two of them would be the same."""
    plain = [re.sub(r"[^\w.-]+", "_", name) for name in names]
    return plain if len(set(plain)) == len(plain) else [str(i) for i in range(len(plain))]
