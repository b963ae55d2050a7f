"""Lesson 19: the baseline that a network has to beat, a linear classifier on TF-IDF of words and word pairs.

Both score the same texts, so they are compared in pairs: by a bootstrap interval over texts, and by McNemar's exact
test (1947, Psychometrika 12:153) on the texts that only one of them classifies correctly. Both statements are about
other test texts for these two trained models, not about training them again.
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
        data: Any = getattr(trainer, "datamodule", None)
        if not hasattr(data, "parts") or not hasattr(data.parts, "texts"):
            raise UserError("LinearBaseline needs texts; use it with TextData")
        given = {name: label for labels in gather_objects(self._labels) for name, label in labels.items()}
        values = self.compare(data.parts, given) if trainer.is_global_zero else {}
        pl_module.log_dict(from_rank_0(values), sync_dist=True)

    def compare(self, parts: Any, given: dict[str, int]) -> dict[str, float]:
        """Computes the logged values.

        Args:
            parts: `TextSplits`.
            given: the model's label of each scored test text, by id.
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
        """Fits the classifier and returns the classes of new texts, int64."""
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
        right: bool [N], which texts the model classified correctly.
        baseline: bool [N], which texts the baseline classified correctly.
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
