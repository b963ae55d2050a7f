"""Lesson 18: one network that classifies and segments images, with and without averaged weights.

Both tasks share one encoder and one training. The class loss is a cross-entropy, the mask loss a pixel cross-entropy
plus soft Dice, and the network minimizes their weighted sum. `plcourse.vision.losses` has the equations of the losses,
`plcourse.vision.averaging` those of the averages.

    plcourse fit -c vision/plain --then test,predict

Shape suffixes: B samples, C channels, H height, W width, K classes, M pixel classes.
"""

from collections.abc import Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional

from plcourse.data.resize import in_size_of_input
from plcourse.errors import UserError
from plcourse.training.exportable import BATCH, Dimension, Input, Output, Signature
from plcourse.training.metrics import StepMeans, in_full, probabilities
from plcourse.training.schedules import WarmupCosine, with_schedule
from plcourse.vision.losses import TaskWeights, mask_loss
from plcourse.vision.networks import ConvEncoder, TwoHeads
from plcourse.vision.scores import VisionScores


class Columns(dict[str, Any]):
    """Columns of the prediction table, with the predicted masks for callbacks that write them elsewhere.

    Attributes:
        masks: a mask per row, uint8 [height, width] in the size of the input.
    """

    masks: Sequence[Tensor] = ()


class ClassifierSegmenter(pl.LightningModule):
    """Classifies images and their pixels with one network.

    The heads are built once the data are known, so other data need changes in the data block of a config only.

    Logs ``train/loss``, ``train/class_loss``, ``train/mask_loss`` and ``train/lr`` every ``log_every_n_steps`` steps,
    with learned weights also ``train/weight_class`` and ``train/weight_mask``, and for val and test the metrics of
    `plcourse.vision.scores.VisionScores`.

    Args:
        encoder: maps images to a list of features, finest first, and has ``widths``.
        class_weight: weight of the class loss; 0 omits the classifier.
        mask_weight: weight of the mask loss; 0 omits the decoder and the segmenter.
        dice_weight: weight of soft Dice relative to the pixel cross-entropy, 0 or more.
        weighting: ``fixed`` uses the weights as given, ``uncertainty`` learns them (Kendall et al. 2018).
        label_smoothing: probability mass moved from the label to all classes during training, 0 to 1.
        dropout: fraction of the coarsest features dropped before the classifier during training, 0 to 1.
        recompute: activation checkpointing; see `TwoHeads`.
        num_classes: classes; None takes them from the data.
        mask_classes: pixel classes; None takes them from the data.
        optimizer: builds the optimizer from the parameters.
        lr_scheduler: builds the schedule from the optimizer, stepped per optimizer step; None for a constant rate.

    Raises:
        ValueError: the weights are negative or leave no task.
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
            raise ValueError(
                f"class_weight={class_weight}, mask_weight={mask_weight}: both must be 0 or more, one above 0"
            )
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
        """Whether the network classifies images."""
        return "class" in self.total.weights

    @property
    def segments(self) -> bool:
        """Whether the network segments images."""
        return "mask" in self.total.weights

    def forward(self, image_BCHW: Tensor) -> tuple[Tensor, ...]:
        """Maps normalized images to class scores [B, K] and mask scores [B, M, H, W] of the heads that exist."""
        return tuple(scores for scores in self.network(image_BCHW) if scores is not None)

    def heads(self, image_BCHW: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Returns the output of `forward`, which an export may replace, with None for a head that does not exist."""
        scores = list(self(image_BCHW))
        return (scores.pop(0) if self.classifies else None), (scores.pop(0) if self.segments else None)

    def losses(
        self, class_BK: Tensor | None, mask_BMHW: Tensor | None, batch: dict[str, Any], label_smoothing: float = 0.0
    ) -> dict[str, Tensor]:
        """The loss of each task per sample [B]."""
        found = {}
        if class_BK is not None:
            found["class"] = functional.cross_entropy(
                class_BK, batch["label"], reduction="none", label_smoothing=label_smoothing
            )
        if mask_BMHW is not None:
            found["mask"] = mask_loss(mask_BMHW, batch["mask"], self.dice_weight)
        return found

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The mean loss of this process's samples, weighted so that the mean over all processes is exact."""
        losses = self.losses(*self.heads(batch["image"]), batch, self.label_smoothing)
        means = {task: loss_B.mean() for task, loss_B in losses.items()}
        rank_weight = batch.get("rank_weight", 1.0)  # foreign data modules may lack it
        loss = self.total(means) * rank_weight
        values = {"train/loss": loss, **{f"train/{task}_loss": mean * rank_weight for task, mean in means.items()}}
        if step_values := self._step_means.add(self.trainer, values):
            self._log_step(step_values)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Adds one batch to the validation scores."""
        self._score(self.val_scores, batch)

    def on_validation_epoch_end(self) -> None:
        """Logs the validation scores on every rank, even one without samples."""
        self.val_scores.log_and_reset(self)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """Adds one batch to the test scores; returns probabilities and masks for pictures and diagnostics."""
        class_BK, mask_BMHW = self._score(self.test_scores, batch)
        found = {}
        if class_BK is not None:
            found["probability"] = probabilities(class_BK)
        if mask_BMHW is not None:
            found["mask"] = mask_BMHW.argmax(dim=1)
        return found

    def on_test_epoch_end(self) -> None:
        """Logs the test scores on every rank, even one without samples."""
        self.test_scores.log_and_reset(self)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> Columns:
        """The columns id, label, probability [B, K], and foreground, the fraction of pixels outside class 0.

        The masks have the sizes of the inputs. Scores are resized bilinearly before the argmax.
        """
        class_BK, mask_BMHW = self._full_heads(batch["image"])
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

    def configure_model(self) -> None:
        """Builds the heads for the classes of the data; Lightning calls it before it loads any weights."""
        data: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]  (set by a connector)
        if hasattr(self, "network") or not getattr(data, "is_open", True):
            return  # already built, or predicting new files, whose classes the checkpoint knows
        self.build(
            _names(self.num_classes, data, "label_names", "num_classes") if self.classifies else [],
            _names(self.mask_classes, data, "mask_names", "mask_classes") if self.segments else [],
        )

    def build(self, label_names: Sequence[str], mask_names: Sequence[str]) -> None:
        """Builds the heads and the metrics, one class per name."""
        # initialized as if built together with the encoder: DDP reseeds its processes in between
        torch.set_rng_state(self._random_state)
        self.network = TwoHeads(self.encoder, len(label_names), len(mask_names), self.dropout, self.recompute)
        self.val_scores = VisionScores("val", label_names, mask_names)
        self.test_scores = VisionScores("test", label_names, mask_names, per_class=True)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Builds the heads of the checkpoint, unless the data have already determined them.

        Raises:
            UserError: checkpoint and data have different numbers of classes.
        """
        heads = ("network.class_head.bias", "network.mask_head.bias")
        sizes = [len(checkpoint["state_dict"].get(name, ())) for name in heads]
        if not hasattr(self, "network"):
            self.build(*([str(i) for i in range(size)] for size in sizes))
            return
        own = [len(self.val_scores.label_names), len(self.val_scores.mask_names)]
        for what, saved, here in zip(("classes", "pixel classes"), sizes, own, strict=True):
            if saved != here:
                raise UserError(f"the checkpoint has {saved} {what}, but the data with this model have {here}")

    def export_signature(self) -> Signature:
        """Maps an image of any size with at least two pixels at the coarsest resolution to the heads' scores."""
        encoder: Any = self.encoder
        # torch.export treats a dimension of size 1 as a constant
        smallest = getattr(encoder, "stride", 1) * 2 ** (len(encoder.widths) - 1) + 1
        free = {0: BATCH, 2: Dimension("height", min=smallest), 3: Dimension("width", min=smallest)}
        outputs = [Output("class_scores", classes=1)] if self.classifies else []
        outputs += [Output("mask_scores", classes=1, per_pixel=True)] if self.segments else []
        metrics = ("test/accuracy",) if self.classifies else ()
        metrics += ("test/foreground_iou",) if self.segments else ()
        return Signature((Input("image", free),), tuple(outputs), metrics)

    def export_inputs(self, batch: dict[str, Any]) -> tuple[Tensor, ...]:
        """The normalized images [B, C, H, W]."""
        return (batch["image"],)

    def _full_heads(self, image_BCHW: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """The output of `heads` in at least single precision, for decisions and metrics."""
        class_BK, mask_BMHW = (None if scores is None else in_full(scores) for scores in self.heads(image_BCHW))
        return class_BK, mask_BMHW

    def _score(self, scores: VisionScores, batch: dict[str, Any]) -> tuple[Tensor | None, Tensor | None]:
        class_BK, mask_BMHW = self._full_heads(batch["image"])
        losses = self.losses(class_BK, mask_BMHW, batch)
        # always with the fixed weights: learned ones would change the scale between epochs
        loss_B = torch.stack([self.total.weights[task] * each for task, each in losses.items()]).sum(dim=0)
        scores.update(loss_B, class_BK, mask_BMHW, batch)
        return class_BK, mask_BMHW

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
            f"{type(data).__name__} has no attribute `{names}`: add it, or set --model.init_args.{argument}"
        )
    return list(known) if known is not None and count in (None, len(known)) else [str(i) for i in range(count or 0)]
