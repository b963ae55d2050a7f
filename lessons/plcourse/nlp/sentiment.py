"""Lesson 19: what a text is for or against.

Any network that maps tokens and lengths to class scores: a bag of word pairs, a BiLSTM with attention, a CNN. Beside
each stands a linear classifier on TF-IDF, on the same split (`LinearBaseline`), which is hard to beat on few texts.

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
from plcourse.nlp.finetuned import take_over
from plcourse.nlp.tokenizers import keep_tokenizer
from plcourse.training.exportable import BATCH, Dimension, Input, Output, Signature
from plcourse.training.metrics import ClassificationScores, StepMeans, probabilities
from plcourse.training.schedules import WarmupCosine, with_schedule


class SentimentClassifier(pl.LightningModule):
    """Trains a network to tell the class of a text.

    Logs ``train/loss`` and ``train/lr`` every ``log_every_n_steps`` steps, and ``<stage>/loss``, ``<stage>/accuracy``,
    ``<stage>/f1`` (macro) for val and test.

    Args:
        network: maps tokens [B, T] and lengths [B] to scores [B, K]: `EmbeddingBag`, `BiLSTM`, `TextCNN`,
            `LanguageModelClassifier`, `ClassConditionalLSTM`; one with a method ``loss`` is trained by that in place of
            cross-entropy.
        num_classes: K.
        optimizer: builds the optimizer from the parameters.
        lr_scheduler: builds the schedule from the optimizer, stepped per optimizer step; None for a constant rate.
        word_dropout: share of the tokens that training replaces by the unknown one, 0 to below 1.
        pretrained: a run or checkpoint of a `LanguageModel` whose weights and tokenizer a `LanguageModelClassifier`
            begins with; None begins from random weights and with a tokenizer fitted to the training part.
        encoder_lr: the learning rate of the network's ``encoder``, as a multiple of the others', above 0.

    Raises:
        ValueError: an argument out of its range.
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
            raise ValueError(f"word_dropout={word_dropout}: give 0 to below 1")
        if encoder_lr <= 0:
            raise ValueError(f"encoder_lr={encoder_lr}: give a number above 0")
        self.pretrained, self.encoder_lr = pretrained, encoder_lr
        self.network, self.num_classes, self.word_dropout = network, num_classes, word_dropout
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self._step_means = StepMeans()
        self.val_scores = ClassificationScores(num_classes, "val")
        self.test_scores = ClassificationScores(num_classes, "test")

    def setup(self, stage: str) -> None:
        """Takes over a language model where one is named.

        A run that goes on, or is evaluated, has its weights and its tokenizer in its own checkpoint.
        """
        if stage == "fit" and self.pretrained is not None and self.trainer.ckpt_path is None:
            data: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
            tokenizer = take_over(self.network, self.pretrained, self)
            data.load_state_dict({"tokenizer": tokenizer, "label_names": data.label_names})

    def on_fit_start(self) -> None:
        """Checks that network, tokenizer and classes fit, and keeps the tokenizer in the run's folder.

        Not in `setup`, which comes before a checkpoint's tokenizer is there.

        Raises:
            UserError: more tokens than the network has embeddings, longer texts than it can read, or another number
                of classes.
        """
        data: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        longest: Any = getattr(self.network, "longest", None)
        if longest is not None and (data.max_length is None or data.max_length > longest):
            raise UserError(
                f"the network reads {longest} tokens of a text at most: set --data.init_args.max_length to that or less"
            )
        size, vocab_size = data.tokenizer.size, self.network.vocab_size
        if size > vocab_size:
            raise UserError(
                f"the tokenizer has {size} tokens, the network {vocab_size}: set --data.init_args.vocab_size and "
                "--model.init_args.network.init_args.vocab_size to the same number"
            )
        if len(data.label_names) != self.num_classes:
            raise UserError(
                f"the texts have {len(data.label_names)} classes, the model {self.num_classes}: set "
                "--model.init_args.num_classes and --model.init_args.network.init_args.num_classes"
            )
        if self.trainer.is_global_zero:
            keep_tokenizer(data.tokenizer, Path(self.trainer.default_root_dir))

    def forward(self, tokens_BT: Tensor, length_B: Tensor) -> Tensor:
        """Tokens int64 [B, T], padded with 0, and lengths int64 [B] in, scores [B, K] out.

        A length beyond T, which only an exported model can be given, counts as T.
        """
        return self.network(tokens_BT, length_B.clamp(max=tokens_BT.shape[1]))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The mean loss of this process's share."""
        tokens_BT = batch["text"]
        if self.word_dropout:
            lost_BT = torch.rand(tokens_BT.shape, device=tokens_BT.device) < self.word_dropout
            tokens_BT = torch.where(lost_BT & (tokens_BT > 0), 1, tokens_BT)
        loss = self._loss(tokens_BT, batch["length"], batch["label"]) * batch.get("rank_weight", 1.0)
        for name, value in self._step_means.add(self.trainer, {"train/loss": loss}).items():
            self.log(name, value, prog_bar=True, sync_dist=True, batch_size=1)
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=1)
        return loss

    def _loss(self, tokens_BT: Tensor, length_B: Tensor, label_B: Tensor) -> Tensor:
        own: Any = getattr(self.network, "loss", None)  # a generative classifier does not compare classes
        if own is not None:
            return own(tokens_BT, length_B, label_B)
        return functional.cross_entropy(self(tokens_BT, length_B), label_B)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Adds one batch to the validation scores."""
        self.val_scores.update(self(batch["text"], batch["length"]), batch["label"])

    def on_validation_epoch_end(self) -> None:
        """Logs the validation scores; called on every rank, also on one that held no text."""
        self.val_scores.log_and_reset(self)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Adds one batch to the test scores; returns its predictions, for `LinearBaseline`."""
        logits_BK = self(batch["text"], batch["length"])
        self.test_scores.update(logits_BK, batch["label"])
        return {"id": batch["id"], "label": probabilities(logits_BK).argmax(dim=1)}

    def on_test_epoch_end(self) -> None:
        """Logs the test scores; called on every rank, also on one that held no text."""
        self.test_scores.log_and_reset(self)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """The columns of a prediction: id, label, probability [B, K], and the text where the batch has it."""
        probability_BK = probabilities(self(batch["text"], batch["length"]))
        columns = {"id": batch["id"], "label": probability_BK.argmax(dim=1), "probability": probability_BK}
        return {**columns, "text": batch["written"]} if "written" in batch else columns

    def configure_optimizers(self) -> Any:
        """Builds the optimizer and its schedule."""
        encoder: Any = getattr(self.network, "encoder", None)
        slow = list(encoder.parameters()) if encoder is not None else []
        known = {id(each) for each in slow}
        groups = [{"params": [each for each in self.parameters() if id(each) not in known]}]
        optimizer = self.optimizer([*groups, {"params": slow}] if slow else groups)
        for group in optimizer.param_groups[1:]:
            group["lr"] *= self.encoder_lr
        return with_schedule(self, optimizer, self.lr_scheduler)

    def export_signature(self) -> Signature:
        """Tokens and lengths in, scores out; any number of tokens that the network can read."""
        longest: Any = getattr(self.network, "longest", None)
        inputs = (Input("tokens", {0: BATCH, 1: Dimension("length", 2, longest)}), Input("lengths"))
        return Signature(inputs, (Output("logits", classes=1),), "test/accuracy")

    def export_inputs(self, batch: dict[str, Any]) -> tuple[Tensor, ...]:
        """The padded tokens of a batch, and the lengths."""
        return batch["text"], batch["length"]
