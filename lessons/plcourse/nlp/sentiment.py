"""Lesson 19: a classifier of texts, such as positive and negative reviews.

It trains any network that maps tokens and lengths to class scores; `plcourse.nlp.networks` has a bag of word pairs, a
CNN and a BiLSTM with attention. `LinearBaseline` fits a linear classifier on TF-IDF to the same texts, which is hard to
beat with few of them.

    plcourse fit -c nlp/sentiment_bag --then test,predict

Shapes: B texts, T tokens, K classes.
"""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional

from plcourse.errors import UserError
from plcourse.nlp.data import TextData
from plcourse.nlp.finetuned import take_over
from plcourse.nlp.tokenizers import PAD, UNKNOWN, check_vocabulary, save_tokenizer
from plcourse.training.exportable import BATCH, Dimension, Input, Output, Signature
from plcourse.training.metrics import ClassificationScores, StepMeans, probabilities
from plcourse.training.schedules import WarmupCosine, with_schedule


class SentimentClassifier(pl.LightningModule):
    """Trains a network to classify texts.

    Logs ``train/loss`` and ``train/lr`` every ``log_every_n_steps`` steps, and ``<stage>/loss``, ``<stage>/accuracy``,
    ``<stage>/f1`` (macro) for val and test.

    Args:
        network: maps tokens [B, T] and lengths [B] to scores [B, K]; `EmbeddingBag`, `BiLSTM`, `TextCNN`,
            `LanguageModelClassifier` or `ClassConditionalLSTM`. A method ``loss`` replaces the cross-entropy.
        num_classes: K.
        optimizer: builds the optimizer from the parameters.
        lr_scheduler: builds the schedule from the optimizer, stepped per optimizer step; None for a constant rate.
        word_dropout: fraction of tokens replaced by the unknown token during training, 0 to below 1.
        pretrained: a run or checkpoint of a `LanguageModel` that provides the initial weights and the tokenizer of a
            `LanguageModelClassifier`; None starts from random weights and fits a tokenizer to the training part.
        encoder_lr: the learning rate of the network's ``encoder`` relative to that of the other layers, above 0.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int = 2,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=2e-3),
        lr_scheduler: LRSchedulerCallable | None = WarmupCosine,
        word_dropout: float = 0.0,
        pretrained: str | None = None,
        encoder_lr: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 <= word_dropout < 1:
            raise ValueError(f"word_dropout={word_dropout} is not at least 0 and below 1")
        if encoder_lr <= 0:
            raise ValueError(f"encoder_lr={encoder_lr} is not above 0")
        self.network: Any = network  # a user's own network has no base class in common with the lesson's
        self.num_classes, self.word_dropout = num_classes, word_dropout
        self.pretrained, self.encoder_lr = pretrained, encoder_lr
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self._step_means = StepMeans()
        self.val_scores = ClassificationScores(num_classes, "val")
        self.test_scores = ClassificationScores(num_classes, "test")

    def forward(self, tokens_BT: Tensor, length_B: Tensor) -> Tensor:
        """Maps tokens int64 [B, T], padded with 0, and lengths int64 [B] to scores [B, K].

        Lengths above T, which an exported model may receive, count as T.
        """
        return self.network(tokens_BT, length_B.clamp(max=tokens_BT.shape[1]))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The mean loss of this process's samples."""
        tokens_BT = batch["text"]
        if self.word_dropout:
            dropped_BT = torch.rand(tokens_BT.shape, device=tokens_BT.device) < self.word_dropout
            tokens_BT = torch.where(dropped_BT & (tokens_BT != PAD), UNKNOWN, tokens_BT)
        if hasattr(self.network, "loss"):  # that of a generative classifier, which does not compare classes
            loss = self.network.loss(tokens_BT, batch["length"], batch["label"])
        else:
            loss = functional.cross_entropy(self(tokens_BT, batch["length"]), batch["label"])
        loss = loss * batch.get("rank_weight", 1.0)
        for name, value in self._step_means.add(self.trainer, {"train/loss": loss}).items():
            self.log(name, value, prog_bar=True, sync_dist=True, batch_size=1)
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=1)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Adds one batch to the validation scores."""
        self.val_scores.update(self(batch["text"], batch["length"]), batch["label"])

    def on_validation_epoch_end(self) -> None:
        """Logs the validation scores on every rank, even one without texts."""
        self.val_scores.log_and_reset(self)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Adds one batch to the test scores; returns the predictions for `LinearBaseline`."""
        logits_BK = self(batch["text"], batch["length"])
        self.test_scores.update(logits_BK, batch["label"])
        return {"id": batch["id"], "label": probabilities(logits_BK).argmax(dim=1)}

    def on_test_epoch_end(self) -> None:
        """Logs the test scores on every rank, even one without texts."""
        self.test_scores.log_and_reset(self)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """The columns id, label, probability [B, K], and text if the batch has it."""
        probability_BK = probabilities(self(batch["text"], batch["length"]))
        columns = {"id": batch["id"], "label": probability_BK.argmax(dim=1), "probability": probability_BK}
        return {**columns, "text": batch["written"]} if "written" in batch else columns

    def configure_optimizers(self) -> Any:
        """Builds the optimizer, with separate rates for an encoder and the other layers, and its schedule."""
        named = list(self.named_parameters())
        of_encoder = [parameter for name, parameter in named if name.startswith("network.encoder.")]
        others = [parameter for name, parameter in named if not name.startswith("network.encoder.")]
        optimizer = self.optimizer([{"params": each} for each in (others, of_encoder) if each])
        for group in optimizer.param_groups[1:]:
            group["lr"] *= self.encoder_lr
        return with_schedule(self, optimizer, self.lr_scheduler)

    def setup(self, stage: str) -> None:
        """Loads the pretrained language model into a new run; otherwise weights and tokenizer are in the checkpoint."""
        if stage == "fit" and self.pretrained is not None and self.trainer.ckpt_path is None:
            tokenizer = take_over(self.network, self.pretrained, self)
            self._data.load_state_dict({"tokenizer": tokenizer, "label_names": self._data.label_names})

    def on_fit_start(self) -> None:
        """Checks that network, tokenizer and classes fit, and saves the tokenizer in the run's folder.

        `setup` would be too early: it runs before the tokenizer of a checkpoint is loaded.

        Raises:
            UserError: the network has fewer embeddings than the tokenizer tokens, reads shorter texts than the data
                allow, or has another number of classes than the data.
        """
        data, longest = self._data, self._longest
        if longest is not None and (data.max_length is None or data.max_length > longest):
            raise UserError(
                f"the network reads at most {longest} tokens of a text; set --data.init_args.max_length to that or less"
            )
        check_vocabulary(data.tokenizer, self.network.vocab_size)
        if len(data.label_names) != self.num_classes:
            raise UserError(
                f"the texts have {len(data.label_names)} classes, but the model {self.num_classes}; set "
                "--model.init_args.num_classes and --model.init_args.network.init_args.num_classes"
            )
        if self.trainer.is_global_zero:
            save_tokenizer(data.tokenizer, Path(self.trainer.default_root_dir))

    @property
    def _data(self) -> TextData:
        return self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]  (set by a connector)

    @property
    def _longest(self) -> int | None:
        """The tokens of a text that the network can read; None for any number."""
        return getattr(self.network, "longest", None)

    def export_signature(self) -> Signature:
        """Maps tokens, as many as the network can read, and lengths to scores."""
        inputs = (Input("tokens", {0: BATCH, 1: Dimension("length", 2, self._longest)}), Input("lengths"))
        return Signature(inputs, (Output("logits", classes=1),), "test/accuracy")

    def export_inputs(self, batch: dict[str, Any]) -> tuple[Tensor, ...]:
        """The padded tokens of a batch, and the lengths."""
        return batch["text"], batch["length"]
