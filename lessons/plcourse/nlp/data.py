"""Texts to classify, and texts to continue; both from the packaged reviews or from a user's own files."""

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import pytorch_lightning as pl
from torch import Tensor

from plcourse.console import say
from plcourse.data import BatchLoader, OnError, Process, delegated, eval_loader, run_seed, train_loader
from plcourse.data.lines import read_lines
from plcourse.data.names import restore_first
from plcourse.errors import UserError
from plcourse.nlp.splits import OneText, TextSplits, TokenDataset
from plcourse.nlp.streams import EvalWindows, Prompts, TrackSampler, TrainWindows, read_prompts, stream_of
from plcourse.nlp.tokenizers import Kind, load_tokenizer


class TextData(pl.LightningDataModule):
    """Labeled texts: batches of ``text`` int64 [B, T], padded with 0, ``length``, ``label`` int64 [B] and ``id``.

    Satisfies `Splittable`.

    Args:
        source: ``reviews``, ``imdb``, ``rotten_tomatoes`` or ``text_table``.
        path: the file or the folder of a ``text_table``.
        text_column: its column of texts.
        label_column: its column of classes.
        on_error: ``skip`` leaves out and lists rows that cannot be used, ``raise`` stops at the first.
        val_size: texts for validation (int), or their fraction (float below 1).
        test_size: the same for the test part; a folder that is already split keeps its parts.
        split_seed: another seed gives another split.
        train_size: trains on this many texts only; None for all.
        tokenizer: ``characters``, ``words`` or ``bpe``, fitted to the training part.
        vocab_size: the largest number of tokens.
        max_length: tokens of a text that are used, from its beginning; None for all.
        batch_size: texts per batch and process.
        eval_batch_size: the same for validation, test and prediction; None for `batch_size`.
        num_workers: processes per loader that fetch ahead; 0 fetches in the training process.
        predict_path: a file of texts to predict, one per line (see `read_lines`); the number of its line is the id of a
            text. None predicts the test part.
    """

    ids = delegated("splits.ids")
    labels = delegated("splits.labels")
    groups = delegated("splits.groups")
    sizes = delegated("splits.sizes")
    label_names = delegated("splits.label_names")
    terms = delegated("splits.terms")
    tokenizer = delegated("splits.tokenizer")
    max_length = delegated("splits.max_length")

    def __init__(
        self,
        source: str = "reviews",
        path: str | None = None,
        text_column: str = "text",
        label_column: str = "label",
        on_error: OnError = "raise",
        val_size: int | float = 0.1,
        test_size: int | float = 0.1,
        split_seed: int = 0,
        train_size: int | None = None,
        tokenizer: Kind = "words",
        vocab_size: int = 20_000,
        max_length: int | None = 400,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        predict_path: str | None = None,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True
        table = (source, path, text_column, label_column, on_error)
        self.splits = TextSplits(*table, val_size, test_size, split_seed, train_size, tokenizer, vocab_size, max_length)
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.num_workers, self.predict_path = num_workers, predict_path

    def setup(self, stage: str) -> None:
        """Opens and splits the texts; the prediction of a new file needs only the checkpoint."""
        restore_first(self)
        if not (stage == "predict" and self.predict_path):
            self.splits.open()

    def train_dataloader(self) -> BatchLoader:
        """Shuffled batches of texts of similar length; each has a ``rank_weight``."""
        return self.splits.train_loader(self.trainer, self.batch_size, num_workers=self.num_workers)

    def val_dataloader(self) -> BatchLoader:
        """Each validation text once."""
        return self.splits.eval_loader(self.trainer, "val", self.eval_batch_size, self.num_workers)

    def test_dataloader(self) -> BatchLoader:
        """Each test text once."""
        return self.splits.eval_loader(self.trainer, "test", self.eval_batch_size, self.num_workers)

    def predict_dataloader(self) -> BatchLoader:
        """The lines of the new file, or each test text once."""
        if self.predict_path is None:
            return self.test_dataloader()
        lines = read_lines(self.predict_path)
        ids = [f"line/{number:05d}" for number, _ in lines]
        data = self.splits.unlabeled([line for _, line in lines], ids, self.predict_path)
        return eval_loader(data, self.eval_batch_size, Process.of(self.trainer), self.num_workers)

    def with_split(self, train_ids: Sequence[str], val_ids: Sequence[str]) -> Self:
        """The same texts with another training and validation part, to which the tokenizer is fitted again."""
        resplit = copy.copy(self)
        resplit.splits = self.splits.with_split(train_ids, val_ids)
        return resplit

    def encoded(self, state: Mapping[str, Any], written: Sequence[str]) -> dict[str, Tensor]:
        """The padded tokens of texts and their lengths, from the state in a checkpoint or an exported file alone."""
        tokens = [each[: state["max_length"]] for each in load_tokenizer(state["tokenizer"]).encode(written)]
        n = len(written)
        batch = TokenDataset(tokens, np.full(n, -1, np.int64), [""] * n).fetch(np.arange(n), 0)
        return {name: batch[name] for name in ("text", "length")}

    def state_dict(self) -> dict[str, Any]:
        """The tokenizer, the length that texts are cut to, and the label names."""
        return self.splits.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what the model was trained with; classes that it does not know are a UserError."""
        self.splits.load_state_dict(state_dict)


class LanguageData(pl.LightningDataModule):
    """Windows of a long sequence of tokens: ``text`` and ``target`` int64 [B, L], the target one token ahead.

    Args:
        source: ``text_file``, or one of the sources of `TextData`, whose texts are read one after the other.
        path: the UTF-8 file of a ``text_file``, or a ``text_table``.
        text_column: the column of texts of a ``text_table``.
        label_column: its column of classes, which the split keeps in proportion.
        val_size: texts for validation, characters for a ``text_file`` (int), or their fraction (float below 1).
        test_size: the same for the test part, which is the end of a ``text_file``.
        split_seed: another seed gives another split of texts.
        train_size: trains on this many texts only; None for all.
        tokenizer: ``characters``, ``words`` or ``bpe``, fitted to the training part.
        vocab_size: the largest number of tokens.
        block_size: tokens of a window, L.
        eval_context: tokens before each window that evaluation reads without scoring them.
        order: ``shuffled`` windows, or ``tracks`` of consecutive windows, for a state that is carried on.
        batch_size: windows per batch and process, and the number of tracks.
        eval_batch_size: windows per batch of validation and test; None for `batch_size`.
        prompts: what `predict` continues; None lets the model begin.
        prompts_path: a UTF-8 file of further prompts, one per line (see `read_lines`).
        samples: continuations of each prompt.
    """

    label_names = delegated("splits.label_names")
    terms = delegated("splits.terms")
    tokenizer = delegated("splits.tokenizer")

    def __init__(
        self,
        source: str = "reviews",
        path: str | None = None,
        text_column: str = "text",
        label_column: str = "label",
        val_size: int | float = 0.1,
        test_size: int | float = 0.1,
        split_seed: int = 0,
        train_size: int | None = None,
        tokenizer: Kind = "characters",
        vocab_size: int = 128,
        block_size: int = 128,
        eval_context: int = 0,
        order: Literal["shuffled", "tracks"] = "shuffled",
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        prompts: list[str] | None = None,
        prompts_path: str | None = None,
        samples: int = 1,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True
        if min(block_size, samples) < 1 or eval_context < 0:
            raise ValueError(f"block_size={block_size}, samples={samples}, eval_context={eval_context}: give 1 or more")
        self.splits: TextSplits | OneText
        if source == "text_file":
            if path is None:
                raise UserError("text_file needs a file: give --data.init_args.path")
            self.splits = OneText(path, val_size, test_size, tokenizer, vocab_size)
        else:
            table = (source, path, text_column, label_column, "raise")
            self.splits = TextSplits(*table, val_size, test_size, split_seed, train_size, tokenizer, vocab_size, None)
        self.block_size, self.eval_context, self.order = block_size, eval_context, order
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size or batch_size
        self.prompts, self.prompts_path, self.samples = prompts, prompts_path, samples

    def setup(self, stage: str) -> None:
        """Reads and splits the text; a prediction needs only the checkpoint."""
        restore_first(self)
        if stage != "predict":
            self.splits.open()

    def train_dataloader(self) -> BatchLoader:
        """Windows of the training part, in the requested order."""
        windows = TrainWindows(stream_of(self.splits, "train"), self.block_size, run_seed())
        process = Process.of(self.trainer)
        if self.order == "shuffled":
            return train_loader(windows, self.batch_size, process, drop_last=True)
        tracks = TrackSampler(len(windows), self.batch_size, run_seed(), process.rank, process.world_size)
        return BatchLoader(windows, tracks, pin_memory=process.pin_memory, accumulation=process.accumulation)

    def val_dataloader(self) -> BatchLoader:
        """Each validation token once."""
        return self._eval_loader("val")

    def test_dataloader(self) -> BatchLoader:
        """Each test token once."""
        return self._eval_loader("test")

    def _eval_loader(self, part: str) -> BatchLoader:
        windows = EvalWindows(stream_of(self.splits, part), self.block_size, self.eval_context, part)
        return eval_loader(windows, self.eval_batch_size, Process.of(self.trainer), part=part)

    def predict_dataloader(self) -> BatchLoader:
        """One prompt per batch."""
        prompts = Prompts(read_prompts(self.prompts, self.prompts_path), self.samples, self.splits.tokenizer)
        return eval_loader(prompts, 1, Process.of(self.trainer))

    @cached_property
    def training_text(self) -> str | None:
        """The training text in one piece, to find copies of it; None where it can no longer be read."""
        try:
            return "\n".join(self.splits.texts("train"))
        except UserError as error:
            say(f"not searching for copies of the training text: {error}")
            return None

    def state_dict(self) -> dict[str, Any]:
        """The tokenizer."""
        return self.splits.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the tokenizer; a language model has no classes."""
        self.splits.load_state_dict({name: value for name, value in state_dict.items() if name != "label_names"})
