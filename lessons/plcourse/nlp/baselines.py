"""Lesson 19: baselines for a language model, an n-gram model of characters and file compressors.

The n-gram model interpolates all orders up to n by the method of Witten and Bell (1991, "The Zero-Frequency Problem"):

    p_k(c | h) = (count(h c) + kinds(h) p_{k-1}(c | h without its first)) / (count(h) + kinds(h))

where kinds(h) is the number of different characters that followed h. Below order 1 all characters are equally likely.
"""

import lzma
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytorch_lightning as pl

from plcourse.errors import UserError
from plcourse.nlp.tokenizers import CharacterTokenizer


def ngram_bits(training: str, held_out: str, order: int = 6) -> float:
    """The bits that an n-gram model of characters, trained on one text, needs for another.

    Args:
        training: the training part.
        held_out: the text to score; it continues the training text.
        order: the longest n-gram in characters, including the predicted one; 1 or more.
    """
    # with the characters of both texts, so that none has probability 0
    symbols = CharacterTokenizer.fit([training + held_out], 1 << 20)
    seen, scored = (symbols.encode([text])[0].astype(np.int64) - 3 for text in (training, held_out))
    base = len(symbols.symbols)
    if base**order >= 2**62:
        order = int(62 / math.log2(base))
    joined = np.concatenate([seen[-order:], scored])
    probability = np.full(len(scored), 1.0 / base)
    for k in range(1, order + 1):
        counted, counts = np.unique(_codes(seen, k, base), return_counts=True)
        histories, first = np.unique(counted // base, return_index=True)
        kinds = np.diff(first, append=len(counted))
        totals = np.add.reduceat(counts, first)
        asked = _codes(joined, k, base)[-len(scored) :]
        of_run = _looked_up(counted, counts, asked)
        of_history, n_kinds = (_looked_up(histories, values, asked // base) for values in (totals, kinds))
        weight = of_history + n_kinds
        known = weight > 0
        probability[known] = (of_run + n_kinds * probability)[known] / weight[known]
    return float(-np.log2(probability).sum())


def _codes(symbols: np.ndarray, k: int, base: int) -> np.ndarray:
    """A number for each run of k symbols, with the last symbol as its lowest digit."""
    codes = np.zeros(len(symbols) - k + 1, np.int64)
    for i in range(k):
        codes = codes * base + symbols[i : len(symbols) - k + 1 + i]
    return codes


def _looked_up(keys: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The value of each requested key, 0 for a missing key."""
    place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[place] == asked, values[place], 0)


def zlib_bits(held_out: str) -> float:
    """The bits of the held-out text compressed by zlib, whose window of 32 KiB makes a training text useless."""
    return 8.0 * len(zlib.compress(held_out.encode(), 9))


def lzma_bits(training: str, held_out: str) -> float:
    """The bits that the held-out text adds to the compressed training text."""
    alone, both = (len(lzma.compress(text.encode(), preset=9)) for text in (training, training + held_out))
    return 8.0 * (both - alone)


def joined(texts: Sequence[str]) -> str:
    """The text that the model is scored on: several texts each end with a symbol, which must be predicted too."""
    return texts[0] if len(texts) == 1 else "".join(f"{text}\n" for text in texts)


class TextFloors(pl.Callback):
    """Logs ``test/ngram_bits_per_character``, ``test/zlib_...`` and ``test/lzma_...`` beside the model's score.

    Like the model, the baselines must predict the end of each text; the bits are divided by the characters of the
    texts alone.

    Args:
        order: the order of the n-gram model, 1 or more.

    Raises:
        ValueError: the order is below 1.
    """

    def __init__(self, order: int = 6) -> None:
        if order < 1:
            raise ValueError(f"order={order} is below 1")
        self.order = order

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Scores the test part by each baseline, on every rank.

        Raises:
            UserError: the data module has no text.
        """
        data: Any = getattr(trainer, "datamodule", None)
        if not hasattr(data, "parts") or not hasattr(data.parts, "texts"):
            raise UserError("TextFloors needs texts; use it with LanguageData")
        training, held_out = (joined(data.parts.texts(part)) for part in ("train", "test"))
        characters = sum(map(len, data.parts.texts("test")))
        bits = {
            "ngram": ngram_bits(training, held_out, self.order),
            "zlib": zlib_bits(held_out),
            "lzma": lzma_bits(training, held_out),
        }
        values: dict[str, Any] = {f"test/{name}_bits_per_character": value / characters for name, value in bits.items()}
        pl_module.log_dict(values, sync_dist=True)
