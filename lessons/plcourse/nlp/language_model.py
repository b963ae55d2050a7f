"""Lesson 19: what a character says about the next one.

A language model gives every text a probability, token by token (Shannon 1951). Trained by cross-entropy, it is measured
by the same: the mean of -ln p(next token) is its loss in nats, and the sum of -log2 p over a held-out text, divided by
the characters of that text, its bits per character. The latter compares models with different tokens, and with a file
compressor.

    plcourse fit -c nlp/char_gpt --then test,predict

Shapes: B rows, T tokens, V vocabulary.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric

from plcourse.data import run_seed
from plcourse.errors import UserError
from plcourse.nlp.generate import Sampling, continuations, describe
from plcourse.nlp.lstm import from_cpu, to_cpu
from plcourse.nlp.sampled import sampled_cross_entropy
from plcourse.nlp.streams import NOT_SCORED
from plcourse.nlp.tokenizers import keep_tokenizer
from plcourse.processes.collectives import gather_states
from plcourse.training.exportable import BATCH, Dimension, Input, Output, Signature
from plcourse.training.metrics import StepMeans
from plcourse.training.schedules import WarmupCosine, with_schedule


class TextScore(Metric):
    """Sums of -ln p, of tokens and of characters, in double precision; the same on any number of processes."""

    full_state_update = False
    total: Tensor
    tokens: Tensor
    characters: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("characters", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, nats: Tensor, tokens: Tensor, characters: Tensor) -> None:
        """Adds -ln p of some tokens, how many they are, and how many characters they stand for."""
        self.total += nats.sum(dtype=torch.float64)
        self.tokens += tokens.sum()
        self.characters += characters.sum()

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> Self:
        # A model that is moved to half precision must not take the sum with it.
        super()._apply(fn, *args, **kwargs)
        self.total = self.total.double()
        self._defaults["total"] = torch.zeros((), dtype=torch.float64)
        return self

    def compute(self) -> dict[str, Tensor]:
        """Loss in nats per token, perplexity per token, bits per character."""
        loss = self.total / self.tokens
        bits = self.total / math.log(2) / self.characters
        return {"loss": loss, "perplexity": loss.exp(), "bits_per_character": bits}


class LanguageModel(pl.LightningModule):
    """Trains a network to predict the next token, scores held-out text, and continues prompts.

    Logs ``train/loss`` (nats per token) and ``train/lr`` every ``log_every_n_steps`` steps, and ``<stage>/loss``,
    ``<stage>/perplexity``, ``<stage>/bits_per_character`` for val and test, each token of the part counted once.

    Args:
        network: maps tokens [B, T] and a state to scores [B, T, V] and a state: `LSTMLanguageModel`, `GPT`.
        optimizer: builds the optimizer from the parameters.
        lr_scheduler: builds the schedule from the optimizer, stepped per optimizer step; None for a constant rate.
        sampled: estimate the training loss from so many words drawn anew in each step (`sampled_cross_entropy`); None
            sums over the whole vocabulary, as validation and test always do.
        carry_state: begin each window with the state behind the one before; needs ``data.order: tracks``.
        max_new_tokens: tokens of a continuation.
        temperature: below 1 likely tokens become likelier still; 0 always takes the likeliest.
        top_k: sample from the so many likeliest tokens only; None for all.
        top_p: sample from the fewest tokens that together have this probability (nucleus sampling); None for all.
        stream: write the first continuation of each prompt to the terminal as it is made.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerCallable = lambda params: torch.optim.AdamW(params, lr=2e-3),
        lr_scheduler: LRSchedulerCallable | None = WarmupCosine,
        sampled: int | None = None,
        carry_state: bool = False,
        max_new_tokens: int = 300,
        temperature: float = 0.8,
        top_k: int | None = None,
        top_p: float | None = None,
        stream: bool = True,
    ) -> None:
        super().__init__()
        if sampled is not None and sampled < 1:
            raise ValueError(f"sampled={sampled}: give 1 or more, or null for the whole vocabulary")
        self.network, self.sampled = network, sampled
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        if carry_state and not hasattr(network, "detached"):
            raise ValueError(f"carry_state=true: {type(network).__name__} has no state to carry on; use an LSTM")
        self.carry_state, self.stream = carry_state, stream
        self.sampling = Sampling(max_new_tokens, temperature, top_k, top_p)
        self._step_means = StepMeans()
        self.val_score, self.test_score = TextScore(), TextScore()
        self._state: Any = None

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Tokens int64 [B, T] in, scores of the next token behind each [B, T, V] out."""
        return self.network(tokens_BT)[0]

    def on_fit_start(self) -> None:
        """Checks that network and tokenizer fit, and keeps the latter in the run's folder.

        Not in `setup`, which comes before a checkpoint's tokenizer is there.

        Raises:
            UserError: the network has fewer scores than there are tokens, or a window that is longer than its context.
        """
        data: Any = getattr(self.trainer, "datamodule", None)
        size, vocab_size = data.tokenizer.size, self.network.vocab_size
        if size > vocab_size:
            raise UserError(
                f"the tokenizer has {size} tokens, the network {vocab_size}: set --data.init_args.vocab_size and "
                "--model.init_args.network.init_args.vocab_size to the same number"
            )
        context, window = self.network.context, data.block_size + data.eval_context
        if context is not None and window > context:
            raise UserError(
                f"block_size + eval_context is {window}, more than the network's context of {context}: "
                "make --model.init_args.network.init_args.context as large"
            )
        if self.carry_state and data.order != "tracks":
            raise UserError(
                "carry_state=true: shuffled windows do not follow each other; set data.init_args.order=tracks"
            )
        if self.trainer.is_global_zero:
            keep_tokenizer(data.tokenizer, Path(self.trainer.default_root_dir))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The mean of -ln p over this process's windows."""
        state = None
        if self.carry_state and batch_idx > 0 and self._state is not None:
            detached: Any = self.network.detached
            state = detached(self._state)
        net: Any = self.network
        if self.sampled is None:
            logits_BTV, behind = net(batch["text"], state)
            loss = functional.cross_entropy(logits_BTV.flatten(0, 1), batch["target"].flatten())
        else:
            features_BTE, behind = net.features(batch["text"], state)
            features_NE, target_N = features_BTE.flatten(0, 1), batch["target"].flatten()
            loss = sampled_cross_entropy(features_NE, target_N, net.head.weight, net.head.bias, self.sampled)
        if self.carry_state:
            self._state = behind
        loss = loss * batch.get("rank_weight", 1.0)
        for name, value in self._step_means.add(self.trainer, {"train/loss": loss}).items():
            self.log(name, value, prog_bar=True, sync_dist=True, batch_size=1)
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=1)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Adds one batch of windows to the validation score."""
        self._score(self.val_score, batch)

    def on_validation_epoch_end(self) -> None:
        """Logs the validation score; called on every rank, also on one that held no window."""
        self._log_score("val", self.val_score)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Adds one batch of windows to the test score."""
        self._score(self.test_score, batch)

    def on_test_epoch_end(self) -> None:
        """Logs the test score; called on every rank, also on one that held no window."""
        self._log_score("test", self.test_score)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Continuations of one prompt: id, prompt, text, and what `describe` says of each."""
        data: Any = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        tokenizer = data.tokenizer
        show = tokenizer if self.stream and self.trainer.is_global_zero else None
        draws = (batch["id"], run_seed(), self.sampling, tokenizer.size)
        texts = [tokenizer.decode(row) for row in continuations(self.network, batch["text"], *draws, show).tolist()]
        described = [describe(text, batch["prompt"][0], data.training_text) for text in texts]
        columns = {name: [each[name] for each in described] for name in described[0]}
        return {"id": batch["id"], "prompt": batch["prompt"], "text": texts, **columns}

    def configure_optimizers(self) -> Any:
        """Builds the optimizer and its schedule."""
        return with_schedule(self, self.optimizer(self.parameters()), self.lr_scheduler)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the carried state of every rank; called on all of them."""
        if self.carry_state and self._state is not None:
            checkpoint["carried_states"] = gather_states(to_cpu(self._state))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up the state of this rank, so that a resumed run goes on as if it had never stopped."""
        states = checkpoint.get("carried_states")
        if self.carry_state and states is not None and self._trainer is not None and self.trainer.training:
            self._state = from_cpu(states[self.trainer.global_rank], self.device)

    def export_signature(self) -> Signature:
        """Tokens in, scores out; any number of tokens up to the context."""
        context: Any = self.network.context
        tokens = Input("tokens", {0: BATCH, 1: Dimension("length", 2, context)})
        return Signature((tokens,), (Output("logits", classes=2),), "test/loss", "min")

    def export_inputs(self, batch: dict[str, Any]) -> tuple[Tensor, ...]:
        """The tokens of a batch of windows."""
        return (batch["text"],)

    def _score(self, score: TextScore, batch: dict[str, Any]) -> None:
        logits_BTV, target_BT = self(batch["text"]), batch["target"]
        nats = functional.cross_entropy(
            logits_BTV.flatten(0, 1).float(), target_BT.flatten(), ignore_index=NOT_SCORED, reduction="none"
        )
        score.update(nats, target_BT != NOT_SCORED, batch["characters"])

    def _log_score(self, stage: str, score: TextScore) -> None:
        values: dict[str, Any] = {f"{stage}/{name}": value for name, value in score.compute().items()}
        score.reset()
        # sync_dist averages values that are equal on all ranks already; without it Lightning warns
        self.log_dict(values, prog_bar=stage == "val", sync_dist=True)
