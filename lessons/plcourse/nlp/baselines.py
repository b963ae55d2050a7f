"""Lesson 19: what a language model must beat: counting the last few characters, and file compressors.

The n-gram model interpolates all orders up to n by the method of Witten and Bell (1991, "The Zero-Frequency Problem"):

    p_k(c | h) = (count(h c) + kinds(h) p_{k-1}(c | h without its first)) / (count(h) + kinds(h))

where kinds(h) is how many different characters followed h. Below order 1 every character is equally likely.
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
    """Bits that an n-gram model of characters, trained on one text, needs for another.

    Args:
        training: the training part.
        held_out: the text that is scored; its first characters follow the training text's last.
        order: the most characters that are looked at, the predicted one included; 1 or more.
    """
    symbols = CharacterTokenizer.fit(
        [training + held_out], 1 << 20
    )  # both texts' characters, so that none is impossible
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
    """A number for each run of k symbols, the last symbol in its lowest digit."""
    codes = np.zeros(len(symbols) - k + 1, np.int64)
    for i in range(k):
        codes = codes * base + symbols[i : len(symbols) - k + 1 + i]
    return codes


def _looked_up(keys: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The value of each key asked for, 0 for one that is not there."""
    place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[place] == asked, values[place], 0)


def zlib_bits(held_out: str) -> float:
    """Bits of the held-out text alone, compressed by zlib, which forgets after 32 KiB anyway."""
    return 8.0 * len(zlib.compress(held_out.encode(), 9))


def lzma_bits(training: str, held_out: str) -> float:
    """Bits by which the held-out text lengthens the compressed training text."""
    alone, both = (len(lzma.compress(text.encode(), preset=9)) for text in (training, training + held_out))
    return 8.0 * (both - alone)


def joined(texts: Sequence[str]) -> str:
    """Texts as the model is scored on them: an end after each where there are several, which must be predicted too."""
    return texts[0] if len(texts) == 1 else "".join(f"{text}\n" for text in texts)


class TextFloors(pl.Callback):
    """Logs ``test/ngram_bits_per_character``, ``test/zlib_...`` and ``test/lzma_...`` beside the model's own.

    All of them, and the model, must say where each text ends, and are divided by the characters of the texts alone.

    Args:
        order: of the n-gram model, 1 or more.

    Raises:
        ValueError: an order below 1.
    """

    def __init__(self, order: int = 6) -> None:
        if order < 1:
            raise ValueError(f"order={order}: give 1 or more")
        self.order = order

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Scores the test part with each of them, on every rank alike.

        Raises:
            UserError: the data module has no text.
        """
        data: Any = getattr(trainer, "datamodule", None)
        if not hasattr(data, "parts") or not hasattr(data.parts, "texts"):
            raise UserError("TextFloors scores texts; use it with LanguageData")
        training, held_out = (joined(data.parts.texts(part)) for part in ("train", "test"))
        characters = sum(map(len, data.parts.texts("test")))
        bits = {
            "ngram": ngram_bits(training, held_out, self.order),
            "zlib": zlib_bits(held_out),
            "lzma": lzma_bits(training, held_out),
        }
        values: dict[str, Any] = {f"test/{name}_bits_per_character": value / characters for name, value in bits.items()}
        pl_module.log_dict(values, sync_dist=True)
