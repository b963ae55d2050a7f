"""Lesson 19: the row that a network has to beat, a linear classifier on TF-IDF of words and word pairs.

Both score the same texts, so their difference is paired: an interval by the bootstrap over texts, and McNemar's exact
test (1947, Psychometrika 12:153) of the texts that only one of the two gets right. Both speak about other test texts
and these two trained models, not about training them again.
"""

from typing import Any

import numpy as np
import pytorch_lightning as pl

from plcourse.errors import UserError
from plcourse.nlp.tokenizers import is_unspaced
from plcourse.processes.collectives import from_rank_0, gather_objects
from plcourse.stats.bootstrap import bootstrap_interval


class LinearBaseline(pl.Callback):
    """Fits the baseline to the training texts and scores the test texts that the model scored.

    Texts in a script without blanks between words, such as Chinese or Thai, are counted by characters instead of words.

    Logs ``test/tfidf_accuracy``, ``test/minus_tfidf`` (accuracy of the model minus that), its 95 % interval
    ``test/minus_tfidf_low`` and ``..._high``, and ``test/mcnemar_p``.

    Args:
        ngrams: the longest run of words, 1 or more.
        regularisation: the inverse strength C of the L2 penalty, above 0.
        min_texts: a run of words must occur in so many training texts.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(self, ngrams: int = 2, regularisation: float = 10.0, min_texts: int = 2) -> None:
        if ngrams < 1 or min_texts < 1 or regularisation <= 0:
            raise ValueError(f"ngrams={ngrams}, min_texts={min_texts}, regularisation={regularisation}: too small")
        self.ngrams, self.regularisation, self.min_texts = ngrams, regularisation, min_texts
        self._labels: dict[str, int] = {}

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forgets an earlier test."""
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
        """Keeps the labels that the model gave."""
        self._labels.update(zip(outputs["id"], outputs["label"].tolist(), strict=True))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs the comparison; a collective, the first rank computes.

        Raises:
            UserError: the data module has no texts.
        """
        data: Any = getattr(trainer, "datamodule", None)
        if not hasattr(data, "parts") or not hasattr(data.parts, "texts"):
            raise UserError("LinearBaseline fits texts; use it with TextData")
        given = {name: label for labels in gather_objects(self._labels) for name, label in labels.items()}
        values = self.compare(data.parts, given) if trainer.is_global_zero else {}
        pl_module.log_dict(from_rank_0(values), sync_dist=True)

    def compare(self, parts: Any, given: dict[str, int]) -> dict[str, float]:
        """The scores beside each other.

        Args:
            parts: `TextSplits`.
            given: the model's label of each test text that was scored, by id.
        """
        test = parts.parts["test"]
        ids = [parts.source.ids[i] for i in test.tolist()]
        kept = np.array([name in given for name in ids])
        label = parts.source.labels[test][kept]
        texts = [text for text, keep in zip(parts.texts("test"), kept, strict=True) if keep]
        linear = self.predict(parts.texts("train"), parts.source.labels[parts.parts["train"]], texts)
        right = np.array([given[name] for name in ids if name in given]) == label
        return {"test/tfidf_accuracy": float((linear == label).mean()), **paired(right, linear == label)}

    def predict(self, texts: list[str], labels: np.ndarray, new: list[str]) -> np.ndarray:
        """The classes int64 of new texts, of a classifier fitted to others."""
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        enough = min(self.min_texts, 1 + len(texts) // 1000)  # few texts share few word pairs
        unit = "char" if is_unspaced(texts) else "word"
        words = TfidfVectorizer(analyzer=unit, ngram_range=(1, self.ngrams), min_df=enough, sublinear_tf=True)
        linear = LogisticRegression(C=self.regularisation, max_iter=1000)
        linear.fit(words.fit_transform(texts), labels)
        return np.asarray(linear.predict(words.transform(new)))


def paired(right: np.ndarray, baseline: np.ndarray) -> dict[str, float]:
    """The difference of two accuracies on the same texts.

    Args:
        right: bool [N], what the model got right.
        baseline: bool [N], what the baseline got right.
    """
    from scipy.stats import binomtest

    difference = right.astype(np.float64) - baseline
    low, high = bootstrap_interval(difference) if len(difference) > 1 else (-1.0, 1.0)
    only, other = int((difference > 0).sum()), int((difference < 0).sum())
    p = float(binomtest(only, only + other).pvalue) if only + other else 1.0
    return {
        "test/minus_tfidf": float(difference.mean()),
        "test/minus_tfidf_low": low,
        "test/minus_tfidf_high": high,
        "test/mcnemar_p": p,
    }
