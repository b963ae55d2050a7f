"""Lesson 19: labelled texts with their split and tokenizer, and batches of texts of similar length.

Shapes: N texts of a part, B texts of a batch, T tokens of the longest of them.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from pytorch_lightning import Trainer
from torch import Tensor

from plcourse.console import say
from plcourse.data import (
    BatchLoader,
    OnError,
    Process,
    TrainSampler,
    duplicate_groups,
    eval_loader,
    permutation,
    run_seed,
    split,
    training_parts,
)
from plcourse.data.names import adopt_classes
from plcourse.data.provenance import Identities
from plcourse.data.splits import check_classes
from plcourse.data.texts import TextSource, open_texts
from plcourse.errors import UserError
from plcourse.nlp.tokenizers import PAD, UNKNOWN, Kind, TextTokenizer, fit_tokenizer, load_tokenizer, report_unknown

_BUCKET = 50  # batches whose texts are sorted by length together


class TokenDataset:
    """Tokenised texts as batches: ``text`` int64 [B, T], padded; ``length`` int64 [B], ``label`` int64 [B], ``id``.

    Args:
        tokens: N arrays of tokens, cut to the length that is wanted; an empty one becomes a single unknown token.
        labels: int64 [N], -1 where unknown.
        ids: N names.
        texts: the N texts, which batches then carry along as ``written``, for predictions; None leaves them out.
        identities: who the texts are; None for new ones.
    """

    def __init__(
        self,
        tokens: Sequence[np.ndarray],
        labels: np.ndarray,
        ids: Sequence[str],
        texts: Sequence[str] | None = None,
        identities: Identities | None = None,
    ) -> None:
        self.texts, self.identities = texts, identities
        self.tokens = [each if len(each) else np.array([UNKNOWN], np.int32) for each in tokens]
        self.labels, self.ids = torch.from_numpy(labels), list(ids)
        self.lengths = np.array([len(each) for each in self.tokens], np.int64)

    def __len__(self) -> int:
        return len(self.tokens)

    def fetch(self, indices: np.ndarray, epoch: int) -> dict[str, Any]:
        """The batch of the texts at `indices` (int64 [B]); the epoch changes nothing."""
        length_B = self.lengths[indices]
        text_BT = np.full((len(indices), length_B.max()), PAD, np.int64)
        for row, index in enumerate(indices.tolist()):
            text_BT[row, : length_B[row]] = self.tokens[index]
        written = {} if self.texts is None else {"written": [self.texts[i] for i in indices.tolist()]}
        return {
            **written,
            "text": torch.from_numpy(text_BT),
            "length": torch.from_numpy(length_B),
            "label": self.labels[torch.from_numpy(indices)],
            "id": [self.ids[i] for i in indices.tolist()],
        }


def encoded_by(state: Mapping[str, Any], texts: Sequence[str]) -> dict[str, Tensor]:
    """The padded tokens of texts and their lengths, by what `TextSplits.state_dict` says alone."""
    tokens = [each[: state["max_length"]] for each in load_tokenizer(state["tokenizer"]).encode(texts)]
    batch = TokenDataset(tokens, np.zeros(len(texts), np.int64), [""] * len(texts)).fetch(np.arange(len(texts)), 0)
    return {name: batch[name] for name in ("text", "length")}


class BucketSampler:
    """Shuffled batches of texts of similar length, so that little is padding; all ranks plan the same ones.

    An epoch is one permutation; of every 50 batches the texts are sorted by length and the batches then shuffled. Only
    the last batch of an epoch, which may be smaller, keeps its place.

    Args:
        base: cuts an order into batches and batches into the ranks' slices.
        lengths: int64 [N], tokens of each text.
    """

    def __init__(self, base: TrainSampler, lengths: np.ndarray) -> None:
        self._base, self._lengths = base, lengths
        self.n, self.seed, self.global_batch_size = base.n, base.seed, base.global_batch_size

    def __len__(self) -> int:
        return len(self._base)

    def rank_weight(self, batch_index: int) -> float:
        """See `TrainSampler.rank_weight`."""
        return self._base.rank_weight(batch_index)

    def samples(self, first: int, end: int) -> int:
        """See `TrainSampler.samples`."""
        return self._base.samples(first, end)

    def batches(self, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
        """This process's batches of `epoch` from number `start` on, each int64 [B]."""
        epoch = epoch if self._base.reshuffle else 0
        return self._base.cut(self._order(epoch), start)

    def _order(self, epoch: int) -> np.ndarray:
        order, size = permutation(self.seed, epoch, self.n), self.global_batch_size
        whole = (len(self) - 1) * size  # the last batch may be smaller or larger
        buckets = [order[at : min(at + _BUCKET * size, whole)] for at in range(0, whole, _BUCKET * size)]
        arranged = [bucket[np.argsort(self._lengths[bucket], kind="stable")] for bucket in buckets]
        batches = np.concatenate(arranged).reshape(-1, size) if arranged else np.empty((0, size), np.int64)
        shuffled = batches[permutation(self.seed, -1 - epoch, len(batches))]
        return np.concatenate([shuffled.ravel(), order[whole:]])


class TextSplits:
    """Training, validation and test part of labelled texts, and the tokenizer fitted to the first.

    Args:
        source: one of `plcourse.data.texts.LABELLED`.
        path: the file or folder of a ``text_table``.
        text_column: its column of texts.
        label_column: its column of classes.
        on_error: ``skip`` leaves rows that cannot be used out and lists them.
        val_size: texts (int) or share (float) for validation.
        test_size: the same for the test part.
        split_seed: another seed gives another split.
        train_size: so many training texts only, the classes in proportion; a smaller number takes a part of what a
            larger one takes. None takes all.
        tokenizer: ``characters``, ``words`` or ``bpe``.
        vocab_size: the largest number of tokens.
        max_length: tokens of a text that are used, from its beginning; None for all.
    """

    def __init__(
        self,
        source: str,
        path: str | None,
        text_column: str,
        label_column: str,
        on_error: OnError,
        val_size: int | float,
        test_size: int | float,
        split_seed: int,
        train_size: int | None,
        tokenizer: Kind,
        vocab_size: int,
        max_length: int | None,
    ) -> None:
        if train_size is not None and train_size < 1:
            raise ValueError(f"train_size={train_size}: give 1 or more, or null for all")
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length={max_length}: give 1 or more tokens, or null for all")
        self._opened = (source, path, text_column, label_column, on_error)
        self.sizes, self.split_seed, self.train_size = (val_size, test_size), split_seed, train_size
        self.kind: Kind = tokenizer
        self.vocab_size, self.max_length = vocab_size, max_length
        self._restored: dict[str, Any] | None = None

    def open(self) -> None:
        """Reads and splits the texts now, so that errors come early."""
        _ = self.parts

    @cached_property
    def source(self) -> TextSource:
        """All texts."""
        source = open_texts(*self._opened)
        if source.rejected:
            first, reason = source.rejected[0]
            say(f"{source.name}: {len(source.rejected)} rows left out; the first is {first}: {reason}")
        if self._label_names is not None:
            adopt_classes(source, self._label_names)
        return source

    @cached_property
    def parts(self) -> dict[str, np.ndarray]:
        """Sorted int64 text numbers by ``train``, ``val``, ``test``; near-duplicates are on one side."""
        parts = split(self.source, *self.sizes, self.split_seed)
        if self.train_size is not None:
            parts["train"] = _first(parts["train"], self.source.labels, self.train_size, self.split_seed)
        if self._restored is None:
            check_classes(parts, self.source)
        return parts

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The checkpoint's, or one fitted to the training part."""
        if self._restored is not None:
            return load_tokenizer(self._restored["tokenizer"])
        return fit_tokenizer(self.kind, self.texts("train"), self.vocab_size)

    @property
    def _label_names(self) -> list[str] | None:
        """The classes of the model; None before it is known, and of one that knows no classes."""
        return None if self._restored is None else self._restored.get("label_names")

    @property
    def label_names(self) -> list[str]:
        """One name per class."""
        return self.source.label_names if self._label_names is None else self._label_names

    def texts(self, part: str) -> list[str]:
        """The texts of a part."""
        return [self.source.texts[i] for i in self.parts[part].tolist()]

    def tokens(self, part: str) -> TokenDataset:
        """The tokenised texts of a part; those of training come without the texts as written."""
        indices, texts = self.parts[part], self.texts(part)
        ids = [self.source.ids[i] for i in indices.tolist()]
        encoded = self._encoded(texts, f"{self.source.name}, {part}")
        written = texts if part != "train" else None
        return TokenDataset(encoded, self.source.labels[indices], ids, written, self.identities(part))

    def identities(self, part: str) -> Identities:
        """Who the texts of a part are: each by its own letters, and by those it shares with its near-duplicates."""
        indices = self.parts[part]
        return Identities(self.source.both_hashes[indices], [self.source.ids[i] for i in indices.tolist()])

    @property
    def terms(self) -> dict[str, Any]:
        """How the texts are split, in plain types."""
        (source, path, *_), (val_size, test_size) = self._opened, self.sizes
        sizes = {"val_size": val_size, "test_size": test_size, "split_seed": self.split_seed}
        return {"source": source, "path": path, **sizes, "train_size": self.train_size}

    def new_tokens(self, texts: Sequence[str], ids: Sequence[str], name: str) -> TokenDataset:
        """Texts without labels, tokenised as the model was trained; `name` is what a report calls them."""
        return TokenDataset(self._encoded(texts, name), np.full(len(texts), -1, np.int64), ids, texts)

    def _encoded(self, texts: Sequence[str], name: str) -> list[np.ndarray]:
        encoded = self.tokenizer.encode(texts)
        report_unknown(self.tokenizer, encoded, name)
        return [tokens[: self.max_length] for tokens in encoded]

    def train_loader(self, trainer: Trainer | None, batch_size: int, num_workers: int = 0) -> BatchLoader:
        """Shuffled batches of similar length; each has a ``rank_weight``."""
        data, process = self.tokens("train"), Process.of(trainer)
        arguments = (len(data), batch_size, run_seed(), process.rank, process.world_size, False)
        base = TrainSampler(*arguments, reshuffle=not process.overfit)
        sampler = BucketSampler(base, data.lengths)
        return BatchLoader(data, sampler, num_workers, process.pin_memory, accumulation=process.accumulation)

    def eval_loader(self, trainer: Trainer | None, part: str, batch_size: int, num_workers: int = 0) -> BatchLoader:
        """Each text of `part` once, in order."""
        return eval_loader(self.tokens(part), batch_size, Process.of(trainer), num_workers, part)

    def state_dict(self) -> dict[str, Any]:
        """What new texts need, in plain types."""
        known = {"label_names": list(self.label_names), "max_length": self.max_length}
        return {"tokenizer": self.tokenizer.state_dict(), **known}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what a checkpoint was trained with; without ``label_names`` the texts may have any classes.

        Raises:
            UserError: the texts are open already and have a class that the model does not know.
        """
        self._restored = state
        if "source" in self.__dict__ and self._label_names is not None:
            adopt_classes(self.source, self._label_names)
        self.__dict__.pop("tokenizer", None)

    @property
    def _pool(self) -> np.ndarray:
        return np.sort(np.concatenate([self.parts["train"], self.parts["val"]]))

    @property
    def ids(self) -> list[str]:
        """The texts for training or validation, see `Splittable`."""
        return [self.source.ids[i] for i in self._pool.tolist()]

    @property
    def labels(self) -> np.ndarray:
        """int64, the class of each of `ids`."""
        return self.source.labels[self._pool]

    @property
    def groups(self) -> np.ndarray | None:
        """int64, equal for near-duplicates among `ids`; None where there are none."""
        return duplicate_groups(self.source.hashes[self._pool])

    @property
    def n_parts(self) -> dict[str, int]:
        """Texts of each part: ``n_train``, ``n_val`` and ``n_test``."""
        return {f"n_{name}": len(indices) for name, indices in self.parts.items()}

    def with_split(self, train_ids: Sequence[str], val_ids: Sequence[str]) -> Self:
        """The same texts and test part with other training and validation parts, and a tokenizer of their own.

        Raises:
            ValueError: an id that is unknown or in the test part, or near-duplicates on both sides.
        """
        parts = training_parts(self.source, self._pool, train_ids, val_ids)
        anew = copy.copy(self)
        anew.parts = {**parts, "test": self.parts["test"]}
        anew._restored = None
        anew.__dict__.pop("tokenizer", None)
        return anew


def _first(indices: np.ndarray, labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """`n` of the indices, the classes in proportion; those of a smaller `n` are among them."""
    if n > len(indices):
        raise UserError(f"train_size={n}: the training part has {len(indices)} texts")
    shuffled = indices[permutation(seed, 0, len(indices))]
    place = np.empty(len(shuffled))
    for label in np.unique(labels[shuffled]):
        (of_class,) = np.nonzero(labels[shuffled] == label)
        place[of_class] = (np.arange(len(of_class)) + 0.5) / len(of_class)
    return np.sort(shuffled[np.argsort(place, kind="stable")[:n]])
