"""Lesson 18: one network that says what a picture shows and where, and whether averaged weights say it better.

The idea: two tasks share an encoder and one training. The class loss is a cross-entropy, the mask loss a cross-entropy
of the pixels plus soft Dice, and the network minimises their weighted sum; `plcourse.vision.losses` has the equations,
`plcourse.vision.averaging` those of the averages.

    plcourse fit -c vision/plain --then test,predict

Shape suffixes: B samples, C channels, H height, W width, K classes, M classes of a pixel.
"""

from collections.abc import Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from plcourse.data.resize import in_size_of_input
from plcourse.errors import UserError
from plcourse.training.exportable import BATCH, Dimension, Input, Output, Signature
from plcourse.training.metrics import StepMeans, in_full, probabilities
from plcourse.training.schedules import WarmupCosine, with_schedule
from plcourse.vision.losses import TaskWeights, class_loss, mask_loss
from plcourse.vision.networks import ConvEncoder, TwoHeads
from plcourse.vision.scores import VisionScores


class Columns(dict[str, Any]):
    """Columns of the table of predictions, with the masks that belong to them.

    Attributes:
        masks: a mask per row, uint8 [height, width] of the input's own size; for callbacks that write them elsewhere.
    """

    masks: Sequence[Tensor] = ()


class ClassifierSegmenter(pl.LightningModule):
    """Classifies images and their pixels, with one network.

    Its heads are built when the data are known, so that a change of data is a change of the data block alone.

    Logs ``train/loss``, ``train/class_loss``, ``train/mask_loss`` and ``train/lr`` every ``log_every_n_steps`` steps,
    with learned weights also ``train/weight_class`` and ``train/weight_mask``; and for val and test what
    `plcourse.vision.scores.VisionScores` computes.

    Args:
        encoder: maps images to a list of features, finest first, and has ``widths``.
        class_weight: weight of the class loss; 0 leaves the classifier out.
        mask_weight: weight of the mask loss; 0 leaves decoder and segmenter out.
        dice_weight: weight of soft Dice beside the pixels' cross-entropy, 0 or more.
        weighting: ``fixed`` takes the weights as they are, ``uncertainty`` learns them (Kendall et al. 2018).
        label_smoothing: probability mass moved from the label to all classes while training, 0 to 1.
        dropout: share of the coarsest features dropped before the classifier while training, 0 to 1.
        recompute: activation checkpointing; see `TwoHeads`.
        num_classes: classes; None takes them from the data.
        mask_classes: classes of a pixel; None takes them from the data.
        optimizer: builds the optimizer from the parameters.
        lr_scheduler: builds the schedule from the optimizer, stepped per optimizer step; None for a constant rate.

    Raises:
        ValueError: weights that are negative or leave no task.
    """

    network: TwoHeads

    def __init__(
        self,
        encoder: nn.Module | None = None,
        class_weight: float = 1.0,
        mask_weight: float = 1.0,
        dice_weight: float = 1.0,
        weighting: Literal["fixed", "uncertainty"] = "fixed",
        label_smoothing: float = 0.0,
        dropout: float = 0.0,
        recompute: bool = False,
        num_classes: int | None = None,
        mask_classes: int | None = None,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=0.003, weight_decay=0.05),
        lr_scheduler: LRSchedulerCallable | None = WarmupCosine,
    ) -> None:
        super().__init__()
        weights = {"class": class_weight, "mask": mask_weight}
        if min(weights.values()) < 0 or not any(weights.values()):
            raise ValueError(f"class_weight={class_weight}, mask_weight={mask_weight}: give 0 or more, one above 0")
        self.encoder = encoder or ConvEncoder()
        self.dice_weight, self.label_smoothing = dice_weight, label_smoothing
        self.dropout, self.recompute = dropout, recompute
        self.num_classes, self.mask_classes = num_classes, mask_classes
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.total = TaskWeights(
            {task: weight for task, weight in weights.items() if weight}, weighting == "uncertainty"
        )
        self._step_means = StepMeans()
        self._random_state = torch.get_rng_state()

    @property
    def classifies(self) -> bool:
        """Whether there is a head for the class of the image."""
        return "class" in self.total.weights

    @property
    def segments(self) -> bool:
        """Whether there is a head for the class of each pixel."""
        return "mask" in self.total.weights

    def configure_model(self) -> None:
        """Builds the heads for the classes that the data have; called by Lightning, before any weight is loaded."""
        data: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]  (set by a connector)
        if hasattr(self, "network") or not getattr(data, "is_open", True):
            return  # built before; or new files are predicted, and the checkpoint tells
        self.build(
            _names(self.num_classes, data, "label_names", "num_classes") if self.classifies else [],
            _names(self.mask_classes, data, "mask_names", "mask_classes") if self.segments else [],
        )

    def build(self, label_names: Sequence[str], mask_names: Sequence[str]) -> None:
        """Builds the heads and the metrics, for as many classes as there are names."""
        # drawn as if they had been built with the encoder: in between, DDP seeds its processes anew
        torch.set_rng_state(self._random_state)
        self.network = TwoHeads(self.encoder, len(label_names), len(mask_names), self.dropout, self.recompute)
        self.val_scores = VisionScores("val", label_names, mask_names)
        self.test_scores = VisionScores("test", label_names, mask_names, per_class=True)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Builds the heads that the checkpoint has, where no data have told of them.

        Raises:
            UserError: the data have told, and of other numbers of classes.
        """
        heads = ("network.class_head.bias", "network.mask_head.bias")
        sizes = [len(checkpoint["state_dict"].get(name, ())) for name in heads]
        if not hasattr(self, "network"):
            self.build(*([str(i) for i in range(size)] for size in sizes))
            return
        own = [len(self.val_scores.label_names), len(self.val_scores.mask_names)]
        for what, there, here in zip(("classes", "classes of a pixel"), sizes, own, strict=True):
            if there != here:
                raise UserError(f"the checkpoint has {there} {what}, and the data with this model {here}")

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Normalised images in; class scores [B, K] and mask scores [B, M, H, W] out, of the heads that there are."""
        return tuple(scores for scores in self.network(image_BCHW) if scores is not None)

    def heads(self, image_BCHW: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The same with a None for the head that is left out."""
        scores = list(self(image_BCHW))
        return (scores.pop(0) if self.classifies else None), (scores.pop(0) if self.segments else None)

    def _scores(self, image_BCHW: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """What is scored and decided by, in single precision or better."""
        class_BK, mask_BMHW = (None if scores is None else in_full(scores) for scores in self.heads(image_BCHW))
        return class_BK, mask_BMHW

    def losses(
        self, class_BK: Tensor | None, mask_BMHW: Tensor | None, batch: dict[str, Any], label_smoothing: float = 0.0
    ) -> dict[str, Tensor]:
        """The loss of each task, per sample [B]."""
        found = {}
        if class_BK is not None:
            found["class"] = class_loss(class_BK, batch["label"], label_smoothing)
        if mask_BMHW is not None:
            found["mask"] = mask_loss(mask_BMHW, batch["mask"], self.dice_weight)
        return found

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The weighted mean loss of this process's share, whose mean over all shares is exact."""
        class_BK, mask_BMHW = self.heads(batch["image"])
        means = {
            task: each.mean() for task, each in self.losses(class_BK, mask_BMHW, batch, self.label_smoothing).items()
        }
        rank_weight = batch.get("rank_weight", 1.0)  # data modules of your own may not know it
        loss = self.total(means) * rank_weight
        losses = {"train/loss": loss, **{f"train/{k}_loss": v * rank_weight for k, v in means.items()}}
        if step_losses := self._step_means.add(self.trainer, losses):
            self._log_step(step_losses)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Adds one batch to the validation scores."""
        class_BK, mask_BMHW = self._scores(batch["image"])
        self.val_scores.update(self._score_loss(class_BK, mask_BMHW, batch), class_BK, mask_BMHW, batch)

    def on_validation_epoch_end(self) -> None:
        """Logs the validation scores; called on every rank, also on one that held no sample."""
        self.val_scores.log_and_reset(self)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Adds one batch to the test scores; returns what the heads say, for pictures and diagnostics."""
        class_BK, mask_BMHW = self._scores(batch["image"])
        self.test_scores.update(self._score_loss(class_BK, mask_BMHW, batch), class_BK, mask_BMHW, batch)
        found = {}
        if class_BK is not None:
            found["probability"] = probabilities(class_BK)
        if mask_BMHW is not None:
            found["mask"] = mask_BMHW.argmax(dim=1)
        return found

    def on_test_epoch_end(self) -> None:
        """Logs the test scores; called on every rank, also on one that held no sample."""
        self.test_scores.log_and_reset(self)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Columns:
        """The columns of a prediction: id, label, probability [B, K], and foreground, the share of pixels not class 0.

        The masks, in each input's own size, are beside them: the scores are scaled, bilinearly, not the mask.
        """
        class_BK, mask_BMHW = self._scores(batch["image"])
        found = Columns(id=batch["id"])
        if class_BK is not None:
            probability_BK = probabilities(class_BK)
            found |= {"label": probability_BK.argmax(dim=1), "probability": probability_BK}
        if mask_BMHW is not None:
            whole = [(0, 0, *mask_BMHW.shape[-2:])] * len(mask_BMHW)
            windows = batch["window"].tolist() if "window" in batch else whole
            sizes = batch["size"].tolist() if "size" in batch else [window[2:] for window in windows]
            found.masks = [
                in_size_of_input(scores_MHW, size, window).argmax(dim=0).to(torch.uint8)
                for scores_MHW, size, window in zip(mask_BMHW, sizes, windows, strict=True)
            ]
            found["foreground"] = torch.stack([(mask > 0).float().mean() for mask in found.masks])
        return found

    def configure_optimizers(self) -> Any:
        """Builds the optimizer and its schedule."""
        return with_schedule(self, self.optimizer(self.parameters()), self.lr_scheduler)

    def export_signature(self) -> Signature:
        """An image of any size that leaves two pixels at the coarsest resolution in, the scores of the heads out."""
        encoder: Any = self.encoder
        # torch.export takes a dimension of one pixel for a constant
        smallest = getattr(encoder, "stride", 1) * 2 ** (len(encoder.widths) - 1) + 1
        free = {0: BATCH, 2: Dimension("height", min=smallest), 3: Dimension("width", min=smallest)}
        outputs = [Output("class_scores", classes=1)] if self.classifies else []
        outputs += [Output("mask_scores", classes=1, per_pixel=True)] if self.segments else []
        metrics = ("test/accuracy",) if self.classifies else ()
        metrics += ("test/foreground_iou",) if self.segments else ()
        return Signature((Input("image", free),), tuple(outputs), metrics)

    def export_inputs(self, batch: dict[str, Any]) -> tuple[Tensor, ...]:
        """The normalised images [B, C, H, W]."""
        return (batch["image"],)

    def _score_loss(self, class_BK: Tensor | None, mask_BMHW: Tensor | None, batch: dict[str, Any]) -> Tensor:
        losses = self.losses(class_BK, mask_BMHW, batch)
        # with the fixed weights in any case: learned ones would move the scale that epochs are compared on
        return torch.stack([self.total.weights[task] * loss_B for task, loss_B in losses.items()]).sum(dim=0)

    def _log_step(self, values: dict[str, Tensor]) -> None:
        """Logs the losses of an optimizer step over all its batches and processes."""
        for name, value in values.items():
            self.log(name, value, prog_bar=name == "train/loss", sync_dist=True, batch_size=1)
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=1)
        for name, value in self.total.logged().items():
            self.log(name, value, batch_size=1)


def _names(count: int | None, data: Any, names: str, argument: str) -> list[str]:
    known = getattr(data, names, None)
    if count is None and known is None:
        raise UserError(
            f"{type(data).__name__} does not say its classes: give it `{names}`, or set --model.init_args.{argument}"
        )
    return list(known) if known is not None and count in (None, len(known)) else [str(i) for i in range(count or 0)]
