"""Lesson 19: what a network has to beat: a linear classifier on TF-IDF, n-grams of characters, and file compressors.

`LinearBaseline` scores the texts that the classifier scores, so the two are compared in pairs: by a bootstrap interval
over texts, and by McNemar's exact test (1947, Psychometrika 12:153) on the texts that only one of them classifies
correctly. Both statements are about other test texts for these two trained models, not about training them again.

`TextFloors` scores the text that the language model scores. Its n-gram model interpolates all orders up to n by the
method of Witten and Bell (1991, "The Zero-Frequency Problem"):

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
from plcourse.nlp.splits import OneText, TextSplits
from plcourse.nlp.tokenizers import SPECIALS, CharacterTokenizer, is_unspaced
from plcourse.processes.collectives import from_rank_0, gather_objects
from plcourse.stats.bootstrap import bootstrap_interval


class LinearBaseline(pl.Callback):
    """Fits a linear classifier to TF-IDF of the training texts, and scores the test texts that the model scored.

    Texts in scripts without spaces between words, such as Chinese or Thai, are counted by characters.

    Logs ``test/tfidf_accuracy``, ``test/minus_tfidf`` (the model's accuracy minus the baseline's), its 95 % interval
    ``test/minus_tfidf_low`` and ``..._high``, and ``test/mcnemar_p``.

    Args:
        ngrams: the longest n-gram of words, 1 or more.
        regularisation: the inverse strength C of the L2 penalty, above 0.
        min_texts: training texts that must contain an n-gram, 1 or more.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, ngrams: int = 2, regularisation: float = 10.0, min_texts: int = 2) -> None:
        if ngrams < 1 or min_texts < 1 or regularisation <= 0:
            raise ValueError(
                f"ngrams={ngrams}, min_texts={min_texts}, regularisation={regularisation}: must be >= 1, >= 1 and > 0"
            )
        self.ngrams, self.regularisation, self.min_texts = ngrams, regularisation, min_texts
        self._labels: dict[str, int] = {}

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets the labels of an earlier test."""
        self._labels = {}

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keeps the model's predicted labels."""
        self._labels.update(zip(outputs["id"], outputs["label"].tolist(), strict=True))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the comparison, which rank 0 computes; a collective.

        Raises:
            UserError: the data module has no texts.
        """
        splits = getattr(getattr(trainer, "datamodule", None), "splits", None)
        if not isinstance(splits, TextSplits):
            raise UserError("LinearBaseline needs texts; use it with TextData")
        labels = {name: label for labels in gather_objects(self._labels) for name, label in labels.items()}
        pl_module.log_dict(from_rank_0(self.compare(splits, labels) if trainer.is_global_zero else {}), sync_dist=True)

    def compare(self, splits: TextSplits, labels: dict[str, int]) -> dict[str, float]:
        """Computes the logged values from the model's label of each scored test text, by id."""
        true = splits.source.labels
        test = [i for i in splits.parts["test"].tolist() if splits.source.ids[i] in labels]
        texts = [splits.source.texts[i] for i in test]
        linear = self.predict(splits.texts("train"), true[splits.parts["train"]], texts) == true[test]
        model = np.array([labels[splits.source.ids[i]] for i in test]) == true[test]
        return {"test/tfidf_accuracy": float(linear.mean()), **paired(model, linear)}

    def predict(self, texts: Sequence[str], labels: np.ndarray, new: Sequence[str]) -> np.ndarray:
        """Fits the classifier and returns the classes of new texts, int64."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        min_df = min(self.min_texts, 1 + len(texts) // 1000)  # few texts have few word pairs in common
        unit = "char" if is_unspaced(texts) else "word"
        words = TfidfVectorizer(analyzer=unit, ngram_range=(1, self.ngrams), min_df=min_df, sublinear_tf=True)
        linear = LogisticRegression(C=self.regularisation, max_iter=1000)
        linear.fit(words.fit_transform(texts), labels)
        return np.asarray(linear.predict(words.transform(new)))


def paired(model: np.ndarray, baseline: np.ndarray) -> dict[str, float]:
    """The difference of two accuracies on the same texts.

    Args:
        model: bool [N], which texts the model classified correctly.
        baseline: bool [N], which texts the baseline classified correctly.
    """
    from scipy.stats import binomtest

    difference = model.astype(np.float64) - baseline
    low, high = bootstrap_interval(difference) if len(difference) > 1 else (-1.0, 1.0)
    only, other = int((difference > 0).sum()), int((difference < 0).sum())
    p = float(binomtest(only, only + other).pvalue) if only + other else 1.0
    return {
        "test/minus_tfidf": float(difference.mean()),
        "test/minus_tfidf_low": low,
        "test/minus_tfidf_high": high,
        "test/mcnemar_p": p,
    }


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
        splits = getattr(getattr(trainer, "datamodule", None), "splits", None)
        if not isinstance(splits, TextSplits | OneText):
            raise UserError("TextFloors needs texts; use it with LanguageData")
        training, held_out = (joined(splits.texts(part)) for part in ("train", "test"))
        characters = sum(map(len, splits.texts("test")))
        bits = {
            "ngram": ngram_bits(training, held_out, self.order),
            "zlib": zlib_bits(held_out),
            "lzma": lzma_bits(training, held_out),
        }
        for name, value in bits.items():
            pl_module.log(f"test/{name}_bits_per_character", value / characters, sync_dist=True)


def joined(texts: Sequence[str]) -> str:
    """The text that the model is scored on: several texts each end with a symbol, which must be predicted too."""
    return texts[0] if len(texts) == 1 else "".join(f"{text}\n" for text in texts)


def ngram_bits(training: str, held_out: str, order: int = 6) -> float:
    """The bits that an n-gram model of characters, trained on one text, needs for another.

    Args:
        training: the training part.
        held_out: the text to score; it continues the training text.
        order: the longest n-gram in characters, including the predicted one; 1 or more.
    """
    # with the characters of both texts, so that none has probability 0
    symbols = CharacterTokenizer.fit([training + held_out], 1 << 20)
    seen, scored = (tokens.astype(np.int64) - len(SPECIALS) for tokens in symbols.encode([training, held_out]))
    base = len(symbols.symbols)
    if base**order >= 2**62:
        order = int(62 / math.log2(base))
    both = np.concatenate([seen[-order:], scored])
    probability = np.full(len(scored), 1.0 / base)
    for k in range(1, order + 1):
        ngrams, counts = np.unique(_codes(seen, k, base), return_counts=True)
        histories, first = np.unique(ngrams // base, return_index=True)
        kinds, totals = np.diff(first, append=len(ngrams)), np.add.reduceat(counts, first)
        asked = _codes(both, k, base)[-len(scored) :]
        of_ngram = _looked_up(ngrams, counts, asked)
        of_history, n_kinds = (_looked_up(histories, values, asked // base) for values in (totals, kinds))
        weight = of_history + n_kinds
        known = weight > 0
        probability[known] = (of_ngram + n_kinds * probability)[known] / weight[known]
    return float(-np.log2(probability).sum())


def zlib_bits(held_out: str) -> float:
    """The bits of the held-out text compressed by zlib, whose window of 32 KiB makes a training text useless."""
    return 8.0 * len(zlib.compress(held_out.encode(), 9))


def lzma_bits(training: str, held_out: str) -> float:
    """The bits that the held-out text adds to the compressed training text."""
    alone, both = (len(lzma.compress(text.encode(), preset=9)) for text in (training, training + held_out))
    return 8.0 * (both - alone)


def _codes(symbols: np.ndarray, k: int, base: int) -> np.ndarray:
    """A number for each run of k symbols, with the last symbol as its lowest digit."""
    return np.lib.stride_tricks.sliding_window_view(symbols, k) @ base ** np.arange(k - 1, -1, -1)


def _looked_up(keys: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The value of each requested key, 0 for a missing key."""
    place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[place] == asked, values[place], 0)
