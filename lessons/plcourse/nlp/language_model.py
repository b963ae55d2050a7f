"""Lesson 19: a language model, which predicts the next token.

A language model assigns every text a probability, token by token (Shannon 1951). Its loss in nats is the mean of
-ln p(next token). Its bits per character are the sum of -log2 p over a held-out text divided by the characters of that
text, which makes models with different tokens, and even file compressors, comparable.

`plcourse.nlp.gpt` and `plcourse.nlp.lstm` have the networks, `plcourse.nlp.generate` the sampling.

    plcourse fit -c nlp/char_gpt --then test,predict

Shapes: B rows, T tokens, V vocabulary.
"""

import math
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional

from plcourse.data import run_seed
from plcourse.errors import UserError
from plcourse.nlp.data import LanguageData
from plcourse.nlp.generate import Sampling, continuations, describe
from plcourse.nlp.sampled import sampled_cross_entropy
from plcourse.nlp.streams import NOT_SCORED
from plcourse.nlp.tokenizers import check_vocabulary, save_tokenizer
from plcourse.processes.collectives import gather_states
from plcourse.training.exportable import BATCH, Dimension, Input, Output, Signature
from plcourse.training.metrics import SampleMean, StepMeans, in_full
from plcourse.training.schedules import WarmupCosine, with_schedule


class LanguageModel(pl.LightningModule):
    """Trains a network to predict the next token, scores held-out text, and continues prompts.

    Logs ``train/loss`` (nats per token) and ``train/lr`` every ``log_every_n_steps`` steps, and ``<stage>/loss``,
    ``<stage>/perplexity``, ``<stage>/bits_per_character`` for val and test, over every token of the part once.

    Args:
        network: maps tokens [B, T] and a state to scores [B, T, V] and a state; `LSTMLanguageModel` or `GPT`.
        optimizer: builds the optimizer from the parameters.
        lr_scheduler: builds the schedule from the optimizer, stepped per optimizer step; None for a constant rate.
        sampled: words to draw per step to estimate the training loss (`sampled_cross_entropy`); None sums over the
            whole vocabulary, as validation and test always do.
        carry_state: whether each window starts from the state after the one before; needs ``data.order: tracks``.
        max_new_tokens: tokens of a continuation, 1 or more.
        temperature: below 1 favors likely tokens; 0 always takes the most likely one.
        top_k: samples from this many of the most likely tokens; None for all.
        top_p: samples from the fewest tokens that together have this probability (nucleus sampling); None for all.
        stream: whether to print the first continuation of each prompt as it is generated.

    Raises:
        ValueError: an argument is out of range.
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
            raise ValueError(f"sampled={sampled} is below 1; use null for the whole vocabulary")
        if carry_state and not hasattr(network, "detached"):
            raise ValueError(
                f"carry_state=true needs a network with a state, such as an LSTM, not {type(network).__name__}"
            )
        self.network: Any = network  # a user's own network has no base class in common with the lesson's
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.sampled, self.carry_state, self.stream = sampled, carry_state, stream
        self.sampling = Sampling(max_new_tokens, temperature, top_k, top_p)
        self._step_means = StepMeans()
        self.val_scores, self.test_scores = TextScores("val"), TextScores("test")
        self._state: Any = None

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Maps tokens int64 [B, T] to scores of each next token [B, T, V]."""
        return self.network(tokens_BT)[0]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The mean of -ln p over this process's windows."""
        state = None
        if self.carry_state and batch_idx > 0 and self._state is not None:
            state = self.network.detached(self._state)
        target_N = batch["target"].flatten()
        if self.sampled is None:
            logits_BTV, state = self.network(batch["text"], state)
            loss = functional.cross_entropy(logits_BTV.flatten(0, 1), target_N)
        else:
            features_BTE, state = self.network.read(self.network.embedding(batch["text"]), state)
            head = self.network.head
            loss = sampled_cross_entropy(features_BTE.flatten(0, 1), target_N, head.weight, head.bias, self.sampled)
        if self.carry_state:
            self._state = state
        loss = loss * batch.get("rank_weight", 1.0)
        for name, value in self._step_means.add(self.trainer, {"train/loss": loss}).items():
            self.log(name, value, prog_bar=True, sync_dist=True, batch_size=1)
            self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=1)
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Adds one batch of windows to the validation scores."""
        self.val_scores.update(self(batch["text"]), batch["target"], batch["characters"])

    def on_validation_epoch_end(self) -> None:
        """Logs the validation scores on every rank, even one without windows."""
        self.val_scores.log_and_reset(self)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Adds one batch of windows to the test scores."""
        self.test_scores.update(self(batch["text"]), batch["target"], batch["characters"])

    def on_test_epoch_end(self) -> None:
        """Logs the test scores on every rank, even one without windows."""
        self.test_scores.log_and_reset(self)

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Any]:
        """Continuations of one prompt: the columns id, prompt, text and those of `describe`."""
        tokenizer = self._data.tokenizer
        show = tokenizer if self.stream and self.trainer.is_global_zero else None
        draws = (batch["id"], run_seed(), self.sampling, tokenizer.size)
        texts = [tokenizer.decode(row) for row in continuations(self.network, batch["text"], *draws, show).tolist()]
        described = [describe(text, batch["prompt"][0], self._data.training_text) for text in texts]
        columns = {name: [each[name] for each in described] for name in described[0]}
        return {"id": batch["id"], "prompt": batch["prompt"], "text": texts, **columns}

    def configure_optimizers(self) -> Any:
        """Builds the optimizer and its schedule."""
        return with_schedule(self, self.optimizer(self.parameters()), self.lr_scheduler)

    def on_fit_start(self) -> None:
        """Checks that network and tokenizer fit, and saves the tokenizer in the run's folder.

        `setup` would be too early: it runs before the tokenizer of a checkpoint is loaded.

        Raises:
            UserError: the network scores fewer tokens than the tokenizer has, or a window exceeds its context.
        """
        data = self._data
        check_vocabulary(data.tokenizer, self.network.vocab_size)
        context, window = self.network.context, data.block_size + data.eval_context
        if context is not None and window > context:
            raise UserError(
                f"block_size + eval_context is {window} and exceeds the network's context of {context}; raise "
                "--model.init_args.network.init_args.context"
            )
        if self.carry_state and data.order != "tracks":
            raise UserError("carry_state=true needs windows that follow each other; set --data.init_args.order tracks")
        if self.trainer.is_global_zero:
            save_tokenizer(data.tokenizer, Path(self.trainer.default_root_dir))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Saves the carried state of every rank; a collective."""
        if self.carry_state and self._state is not None:
            own = [part.detach().cpu().clone() for part in self._state]  # a list, which a `weights_only` load accepts
            checkpoint["carried_states"] = gather_states(own)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the carried state of this rank, so that a resumed run is bit-exact."""
        states = checkpoint.get("carried_states")
        if self.carry_state and states is not None and self._trainer is not None and self.trainer.training:
            self._state = tuple(part.to(self.device) for part in states[self.trainer.global_rank])

    @property
    def _data(self) -> LanguageData:
        return self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]  (set by a connector)

    def export_signature(self) -> Signature:
        """Maps tokens, up to the context, to scores."""
        tokens = Input("tokens", {0: BATCH, 1: Dimension("length", 2, self.network.context)})
        return Signature((tokens,), (Output("logits", classes=2),), "test/loss", "min")

    def export_inputs(self, batch: dict[str, Any]) -> tuple[Tensor, ...]:
        """The tokens of a batch of windows."""
        return (batch["text"],)


class TextScores(nn.Module):
    """The loss in nats per token, the perplexity, and the bits per character; exact over all windows and processes.

    Args:
        stage: first part of the metric names, such as ``val``.
    """

    def __init__(self, stage: str) -> None:
        super().__init__()
        self.stage = stage
        self.nats, self.characters = SampleMean(), SampleMean()  # per token

    def update(self, logits_BTV: Tensor, target_BT: Tensor, characters_BT: Tensor) -> None:
        """Adds the tokens of some windows, and the number of their characters, except where `NOT_SCORED`."""
        logits_NV, target_N = in_full(logits_BTV).flatten(0, 1), target_BT.flatten()
        nats_N = functional.cross_entropy(logits_NV, target_N, ignore_index=NOT_SCORED, reduction="none")
        self.nats.update(nats_N[target_N != NOT_SCORED])
        self.characters.update(characters_BT[target_BT != NOT_SCORED])

    def compute(self) -> dict[str, Tensor]:
        """Every metric by name."""
        loss = self.nats.compute()
        bits = loss / math.log(2) / self.characters.compute()
        values = {"loss": loss, "perplexity": loss.exp(), "bits_per_character": bits}
        return {f"{self.stage}/{name}": value for name, value in values.items()}

    def log_and_reset(self, module: pl.LightningModule) -> None:
        """Logs and resets the metrics; a collective, which every rank must call."""
        for name, value in self.compute().items():
            # sync_dist averages values that are already equal on all ranks; without it Lightning warns
            module.log(name, value, prog_bar=self.stage == "val", sync_dist=True)
        self.nats.reset()
        self.characters.reset()
