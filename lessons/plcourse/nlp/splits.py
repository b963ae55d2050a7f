"""The training, validation and test part of texts, with the tokenizer that is fitted to the training part.

`TextSplits` has labeled texts, and makes batches of texts of similar length. `OneText` is one long text, cut in three.

Shapes: N texts of a part, B texts of a batch, T tokens of the longest of them.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Trainer
from torch.nn.utils.rnn import pad_sequence

from plcourse.console import say
from plcourse.data import (
    BatchLoader,
    Labeled,
    OnError,
    Process,
    SourceSplits,
    TrainSampler,
    permutation,
    run_seed,
)
from plcourse.data.lines import read_text
from plcourse.data.names import adopt_classes
from plcourse.data.provenance import Identities
from plcourse.data.randoms import keys_of
from plcourse.data.texts import TextSource, open_texts
from plcourse.errors import UserError
from plcourse.nlp.tokenizers import PAD, UNKNOWN, Kind, TextTokenizer, fit_tokenizer, load_tokenizer, report_unknown

_BUCKET = 50  # batches whose texts are sorted by length together
_PIECE = 64  # characters of a long text that are recognized together


class TextSplits(SourceSplits):
    """Labeled texts. `plcourse.nlp.data.TextData` describes the arguments; its ``tokenizer`` is `kind` here."""

    fitted = ("tokenizer",)

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
        kind: Kind,
        vocab_size: int,
        max_length: int | None,
    ) -> None:
        super().__init__(val_size, test_size, split_seed)
        if train_size is not None and train_size < 1:
            raise ValueError(f"train_size={train_size}: give 1 or more, or null for all")
        if max_length is not None and max_length < 1:
            raise ValueError(f"max_length={max_length}: give 1 or more tokens, or null for all")
        self._table = (source, path, text_column, label_column, on_error)
        self.train_size, self.max_length = train_size, max_length
        self.kind: Kind = kind
        self.vocab_size = vocab_size

    @cached_property
    def source(self) -> TextSource:
        """All texts."""
        source = open_texts(*self._table)
        if source.rejected:
            first, reason = source.rejected[0]
            say(f"{source.name}: {len(source.rejected)} rows left out; the first is {first}: {reason}")
        self._adopt_classes(source)
        return source

    def _adopt_classes(self, source: TextSource) -> None:
        names = None if self._restored is None else self._restored.get("label_names")
        if names is not None:  # a language model knows no classes
            adopt_classes(source, names)

    def _split(self, source: Labeled) -> dict[str, np.ndarray]:
        parts = super()._split(source)
        if self.train_size is not None:
            parts["train"] = _first(parts["train"], source.labels, self.train_size, self.split_seed)
        return parts

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The checkpoint's, or one fitted to the training part."""
        return _tokenizer(self, self._restored)

    def texts(self, part: str) -> list[str]:
        """The texts of a part."""
        return [self.source.texts[i] for i in self.parts[part].tolist()]

    def dataset_of(self, part: str, augment: Any = None) -> "TokenDataset":
        """The tokenized texts of a part; except in training, batches also contain the texts as written."""
        texts, labels = self.texts(part), self.source.labels[self.parts[part]]
        encoded = self._encoded(texts, f"{self.source.name}, {part}")
        written = texts if part != "train" else None
        return TokenDataset(encoded, labels, self.ids_of(part), written, self.identities(part))

    def unlabeled(self, texts: Sequence[str], ids: Sequence[str], name: str) -> "TokenDataset":
        """New texts, tokenized as the model was trained; the printed fraction of unknown tokens calls them `name`."""
        return TokenDataset(self._encoded(texts, name), np.full(len(texts), -1, np.int64), ids, texts)

    def _encoded(self, texts: Sequence[str], name: str) -> list[np.ndarray]:
        encoded = self.tokenizer.encode(texts)
        report_unknown(self.tokenizer, encoded, name)
        return [tokens[: self.max_length] for tokens in encoded]

    def train_loader(
        self, trainer: Trainer | None, batch_size: int, augment: Any = None, num_workers: int = 0
    ) -> BatchLoader:
        """Shuffled batches of texts of similar length; each has a ``rank_weight``."""
        data, process = self.dataset_of("train"), Process.of(trainer)
        rank = (process.rank, process.world_size)
        sampler = BucketSampler(data.lengths, batch_size, run_seed(), *rank, reshuffle=not process.overfit)
        return BatchLoader(data, sampler, num_workers, process.pin_memory, accumulation=process.accumulation)

    def identities(self, part: str) -> Identities:
        """The hashes of the texts of a part: of the letters of each text, and of its near-duplicates."""
        return Identities(self.source.both_hashes[self.parts[part]], self.ids_of(part))

    @property
    def terms(self) -> dict[str, Any]:
        """The source and how its texts are split, in plain types."""
        source, path, *_ = self._table
        return {"source": source, "path": path, **self.split_terms, "train_size": self.train_size}

    def state_dict(self) -> dict[str, Any]:
        """What new texts need, in plain types."""
        known = {"label_names": list(self.label_names), "max_length": self.max_length}
        return {"tokenizer": self.tokenizer.state_dict(), **known}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what a checkpoint was trained with; without ``label_names`` the texts may have any classes.

        Raises:
            UserError: the texts are already open and have a class that the model does not know.
        """
        self._restored = state
        if "source" in self.__dict__:
            self._adopt_classes(self.source)
        vars(self).pop("tokenizer", None)


class OneText:
    """One text, cut into training, validation and test part in this order; it has the methods of `TextSplits`.

    `plcourse.nlp.data.LanguageData` describes the arguments.
    """

    label_names: list[str] | None = None

    def __init__(self, path: str, val_size: int | float, test_size: int | float, kind: Kind, vocab_size: int) -> None:
        self.path, self.val_size, self.test_size = path, val_size, test_size
        self.kind: Kind = kind
        self.vocab_size = vocab_size
        self._restored: dict[str, Any] | None = None

    def open(self) -> None:
        """Reads and cuts the text now instead of at its first use, so that errors come early."""
        _ = self._cut

    @cached_property
    def _cut(self) -> dict[str, str]:
        text = read_text(self.path)
        n = len(text)
        val, test = (round(size * n) if isinstance(size, float) else size for size in (self.val_size, self.test_size))
        if min(val, test) < 0 or val + test >= n:
            raise UserError(
                f"'{self.path}' has {n} characters, but val_size={val} and test_size={test} leave none to train on"
            )
        return {"train": text[: n - val - test], "val": text[n - val - test : n - test], "test": text[n - test :]}

    @property
    def sizes(self) -> dict[str, int]:
        """Characters of each part: ``n_train``, ``n_val`` and ``n_test``."""
        return {f"n_{name}": len(text) for name, text in self._cut.items()}

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The checkpoint's, or one fitted to the training part."""
        return _tokenizer(self, self._restored)

    def texts(self, part: str) -> list[str]:
        """The text of a part, as a list of one.

        Raises:
            UserError: the part is empty.
        """
        if not self._cut[part]:
            raise UserError(f"the {part} part of '{self.path}' is empty; give --data.init_args.{part}_size")
        return [self._cut[part]]

    def identities(self, part: str) -> Identities:
        """The hashes of a part's pieces of 64 characters, each together with its position in the text.

        They recognize the text under another name, with other sizes of its parts, and after something was appended to
        it, but not after the first place where something was inserted.
        """
        before = {"train": (), "val": ("train",), "test": ("train", "val")}[part]
        first = sum(len(self._cut[name]) for name in before)
        text = "".join(self._cut.values())
        pieces = range(-(-first // _PIECE) * _PIECE, first + len(self._cut[part]) - _PIECE + 1, _PIECE)
        hashes = keys_of([f"{start} {text[start : start + _PIECE]}" for start in pieces])
        return Identities(hashes, [f"characters {start:,} to {start + _PIECE:,}" for start in pieces])

    @property
    def terms(self) -> dict[str, Any]:
        """How the text is cut, in plain types."""
        return {"path": self.path, "val_size": self.val_size, "test_size": self.test_size}

    def state_dict(self) -> dict[str, Any]:
        """The tokenizer, in plain types."""
        return {"tokenizer": self.tokenizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the tokenizer of a checkpoint."""
        self._restored = state
        self.__dict__.pop("tokenizer", None)


class BucketSampler(TrainSampler):
    """Shuffled batches of texts of similar length, so that little of a batch is padding; the same on all ranks.

    An epoch is one permutation. The texts of every 50 batches are sorted by length, and the batches are then shuffled.
    Only the last batch of an epoch, which may have another size, keeps its place.

    Args:
        lengths: int64 [N], tokens of each text; see `TrainSampler` for the other arguments.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        reshuffle: bool = True,
    ) -> None:
        super().__init__(len(lengths), batch_size, seed, rank, world_size, reshuffle=reshuffle)
        self._lengths = lengths

    def order(self, epoch: int) -> np.ndarray:
        """The texts in the order of an epoch, int64 [N]."""
        order, size = super().order(epoch), self.global_batch_size
        whole = (len(self) - 1) * size  # the last batch may be smaller or larger
        buckets = [order[at : min(at + _BUCKET * size, whole)] for at in range(0, whole, _BUCKET * size)]
        sorted_buckets = [bucket[np.argsort(self._lengths[bucket], kind="stable")] for bucket in buckets]
        batches = np.concatenate(sorted_buckets).reshape(-1, size) if buckets else np.empty((0, size), np.int64)
        shuffled = batches[permutation(self.seed, -1 - (epoch if self.reshuffle else 0), len(batches))]
        return np.concatenate([shuffled.ravel(), order[whole:]])


class TokenDataset:
    """Tokenized texts as batches: ``text`` int64 [B, T], padded; ``length`` int64 [B], ``label`` int64 [B], ``id``.

    Args:
        tokens: N arrays of tokens, already cut to length; an empty one becomes a single unknown token.
        labels: int64 [N], -1 where unknown.
        ids: N names.
        texts: the N texts, which batches then contain as ``written``; None leaves them out.
        identities: the hashes of the texts; None for new texts.
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
        """The batch of the texts at `indices` (int64 [B]), the same in every epoch."""
        chosen = indices.tolist()
        tokens = [torch.from_numpy(self.tokens[i]).long() for i in chosen]
        written = {} if self.texts is None else {"written": [self.texts[i] for i in chosen]}
        return {
            **written,
            "text": pad_sequence(tokens, batch_first=True, padding_value=PAD),
            "length": torch.from_numpy(self.lengths[indices]),
            "label": self.labels[indices],
            "id": [self.ids[i] for i in chosen],
        }


def _tokenizer(texts: TextSplits | OneText, restored: dict[str, Any] | None) -> TextTokenizer:
    if restored is not None:
        return load_tokenizer(restored["tokenizer"])
    return fit_tokenizer(texts.kind, texts.texts("train"), texts.vocab_size)


def _first(indices: np.ndarray, labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """`n` of the indices, the classes in proportion; those of a smaller `n` are among them."""
    if n > len(indices):
        raise UserError(f"train_size={n} exceeds the {len(indices)} texts of the training part")
    shuffled = indices[permutation(seed, 0, len(indices))]
    place = np.empty(len(shuffled))
    for label in np.unique(labels[shuffled]):
        (of_class,) = np.nonzero(labels[shuffled] == label)
        place[of_class] = (np.arange(len(of_class)) + 0.5) / len(of_class)
    return np.sort(shuffled[np.argsort(place, kind="stable")[:n]])
