"""Scores the difficulty of each training sample before training starts; larger is harder.

| scorer | difficulty of a sample | needs |
|---|---|---|
| `ClassifierMargin` | minus the margin of a linear classifier that was fitted without it | nothing |
| `ReferenceLoss` | its loss under an earlier model | a run or a checkpoint |
| `CrossValidatedLoss` | its mean loss under models that were trained without it | an out-of-fold table |
| `ScoreColumn` | a number from a file | a CSV or Parquet file |

A scorer sees only the training part, with its labels as they are (even wrong ones), and does not use the random states
of the run. A run with a scorer and all samples admitted therefore equals the run without one.

Shape suffixes: N samples of the training part, B of a batch, K classes.
"""

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch

from plcourse.data import Batch, BatchLoader
from plcourse.data.frames import as_text, numbers, read_frame
from plcourse.errors import UserError, nearest
from plcourse.files import write_text
from plcourse.runs.run import OUT_OF_FOLD, Run, runs_root
from plcourse.training.checkpoint import load


class Scorer(ABC):
    """Scores the difficulty of training samples."""

    @abstractmethod
    def __call__(self, samples: "TrainingSamples") -> np.ndarray:
        """The scores, float64 [N], finite, larger is harder; a UserError if they cannot be computed."""


class ClassifierMargin(Scorer):
    """Minus the margin of a linear classifier; each sample is scored by a classifier that was fitted without it.

    The margin is the decision value of the sample's label minus the largest other one, negative if the classifier is
    wrong. The classifier is scikit-learn's multinomial `LogisticRegression` on the pixels.

    Args:
        n_splits: folds, 2 or more; every class needs as many samples.
        C: inverse regularization strength, above 0. Strong regularization is fast and keeps the classifier from
            fitting wrong labels.
        random_state: fixes the folds.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(self, n_splits: int = 5, C: float = 0.001, random_state: int = 0) -> None:
        if n_splits < 2:
            raise ValueError(f"n_splits is {n_splits}; it must be 2 or more")
        if C <= 0:
            raise ValueError(f"C is {C}; it must be above 0")
        self.n_splits, self.C, self.random_state = n_splits, C, random_state

    # a process may run many arms on the same data, such as a worker of a sweep
    _known: dict[tuple[str, str, int, float, int], np.ndarray] = {}

    def __call__(self, samples: "TrainingSamples") -> np.ndarray:
        """Fits the classifiers, or returns the scores that this process computed earlier for the same data."""
        features = np.concatenate([batch["image"].flatten(1).numpy() for batch in samples.batches()])
        pixels = hashlib.blake2b(np.ascontiguousarray(features).tobytes(), digest_size=16).hexdigest()
        key = (samples.digest, pixels, self.n_splits, self.C, self.random_state)
        if key not in self._known:
            self._known[key] = self._fit(features, samples.labels)
        return self._known[key]

    def _fit(self, features: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
        # takes over a second to import
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
        from threadpoolctl import threadpool_limits

        classes, class_N = np.unique(labels_N, return_inverse=True)
        rarest = int(np.bincount(class_N).min())
        if len(classes) < 2 or rarest < self.n_splits:
            raise UserError(
                f"ClassifierMargin needs two classes and {self.n_splits} samples of each; the training part has "
                f"{len(classes)} classes and {rarest} samples of the rarest: use a smaller n_splits"
            )
        folds = StratifiedKFold(self.n_splits, shuffle=True, random_state=self.random_state)
        classifier = LogisticRegression(C=self.C, max_iter=1000, tol=1e-3)
        # one thread: reproducible sums, and runs of a sweep do not compete for cores
        with threadpool_limits(1):
            decisions = cross_val_predict(classifier, features, class_N, cv=folds, method="decision_function")
        return -_margins(np.asarray(decisions), class_N)


class ReferenceLoss(Scorer):
    """The loss under an earlier model of the same architecture.

    To a reference model that was trained on these samples, the memorized ones are easy.

    Args:
        checkpoint: the folder or name of a run, whose best checkpoint is used; or the path of a checkpoint.
    """

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def __call__(self, samples: "TrainingSamples") -> np.ndarray:
        """Loads the reference weights into the model for one pass and restores its own."""
        path = Path(self.checkpoint)
        path = path if path.suffix == ".ckpt" else Run.load(self.checkpoint, runs_root()).checkpoint("best")
        reference = load(path)["state_dict"]
        module = samples.module
        losses_of = getattr(module, "sample_losses", None)
        if losses_of is None:
            raise UserError(f"{type(module).__name__} has no sample_losses(batch), which ReferenceLoss needs")
        own = {name: value.clone() for name, value in module.state_dict().items()}
        try:
            try:
                module.load_state_dict(reference)
            except RuntimeError as error:
                raise UserError(f"{path} does not fit {type(module).__name__} as configured") from error
            with evaluating(module):
                losses = [losses_of(as_trained_on(batch, module)).double().cpu() for batch in samples.batches()]
        finally:
            module.load_state_dict(own)
        return torch.cat(losses).numpy()


class CrossValidatedLoss(Scorer):
    """The mean out-of-fold loss over all repeats: that of models trained without the sample.

    Args:
        run: the folder or name of a cross-validated run, whose ``predictions/out_of_fold.parquet`` has the columns
            ``id`` and ``loss`` (nats); or the path of such a Parquet file.
    """

    def __init__(self, run: str) -> None:
        self.run = run

    def __call__(self, samples: "TrainingSamples") -> np.ndarray:
        """Reads the table; a sample that was held out several times gets its mean loss."""
        path = Path(self.run)
        if path.suffix != ".parquet":
            path = Run.load(self.run, runs_root()).path / "predictions" / OUT_OF_FOLD
        return _scores_from(path, "loss", samples, repeats=True)


class ScoreColumn(Scorer):
    """Scores from a column of a file.

    Args:
        path: a CSV (``.csv``) or Parquet (``.parquet``) file with a column ``id`` and one row per training sample. It
            may have rows for samples of the other parts.
        column: the column with the scores; larger is harder.
    """

    def __init__(self, path: str, column: str = "score") -> None:
        self.path, self.column = path, column

    def __call__(self, samples: "TrainingSamples") -> np.ndarray:
        """Reads the file."""
        return _scores_from(Path(self.path), self.column, samples, repeats=False)


@dataclass(frozen=True)
class TrainingSamples:
    """What a scorer may use: N samples."""

    ids: list[str]
    labels: np.ndarray  # int64 [N], the labels to be trained on
    # The ids of all parts: a file may score other parts too, but no unknown ids. None if the data only know the
    # training part; then other ids in a file are ignored.
    known_ids: Sequence[str] | None
    module: pl.LightningModule  # about to be trained
    loader: Callable[[], BatchLoader] | None  # makes the loader of `batches`; None if the data have none

    @classmethod
    def of(cls, trainer: pl.Trainer) -> "TrainingSamples":
        """The training part of a run whose data are set up; a UserError if they have no ids or labels."""
        data = getattr(trainer.train_dataloader, "data", None)
        ids, labels = getattr(data, "ids", None), getattr(data, "labels", None)
        if ids is None or labels is None:
            raise UserError(f"{type(data).__name__} lacks `ids` or `labels`, which a curriculum needs")
        known_ids = getattr(getattr(data, "source", None), "ids", None)
        loader = getattr(getattr(trainer, "datamodule", None), "scoring_dataloader", None)
        return cls(ids, labels, known_ids, trainer.lightning_module, loader)

    def batches(self) -> BatchLoader:
        """Each training sample once, in order, not augmented; the same on every rank."""
        if self.loader is None:
            raise UserError("the data module has no scoring_dataloader(), which this scorer needs")
        return self.loader()

    @property
    def digest(self) -> str:
        """A hash of the ids and labels."""
        names = hashlib.blake2b("\n".join(self.ids).encode(), digest_size=16)
        names.update(np.ascontiguousarray(self.labels).tobytes())
        return names.hexdigest()


def as_trained_on(batch: Batch, module: pl.LightningModule) -> Batch:
    """The batch as the training step would get it: in the run's precision, on its device."""
    return Batch(module.trainer.precision_plugin.convert_input(batch)).to(module.device)


@contextmanager
def evaluating(module: pl.LightningModule) -> Iterator[None]:
    """Evaluation mode without gradients, in the run's precision; restores the mode of each submodule on exit."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        with torch.no_grad(), module.trainer.precision_plugin.forward_context():
            yield
    finally:
        for each, training in modes:
            each.training = training


def write_scores(path: Path, ids: Sequence[str], scores_N: np.ndarray) -> None:
    """Writes a CSV file with ``id,score`` per training sample, easiest first, which `ScoreColumn` can read."""
    table = pd.DataFrame({"id": ids, "score": scores_N}).sort_values("score", kind="stable")
    write_text(path, table.to_csv(index=False, lineterminator="\n"))


def _margins(decisions: np.ndarray, class_N: np.ndarray) -> np.ndarray:
    if decisions.ndim == 1:  # two classes share one decision value
        decisions = np.stack([-decisions, decisions], axis=1)
    own = np.arange(decisions.shape[1]) == class_N[:, None]
    return decisions[own] - np.where(own, -np.inf, decisions).max(axis=1)


def _scores_from(path: Path, column: str, samples: TrainingSamples, repeats: bool) -> np.ndarray:
    """The score of each sample in a table, the mean if ``repeats`` allows several."""
    rows = _read_column(path, column)
    if not np.isfinite(rows.to_numpy()).all():
        name, value = next((name, value) for name, value in rows.items() if not np.isfinite(value))
        raise UserError(f"{path}: the {column} of {name!r} is {value}; it must be a finite number")
    known = samples.known_ids
    if known is not None and (foreign := sorted(set(rows.index) - set(known))):
        hint = nearest(foreign[0], known)
        raise UserError(f"{path}: {len(foreign)} ids are not in the data, first {foreign[0]!r}{hint}")
    counts = Counter(rows.index)
    if missing := [name for name in samples.ids if name not in counts]:
        raise UserError(
            f"{path}: {len(missing)} of {len(samples.ids)} training samples have no {column}, first {missing[0]!r}; "
            "every training sample needs a row"
        )
    if not repeats and (twice := next((name for name in samples.ids if counts[name] > 1), None)):
        raise UserError(f"{path}: {twice!r} has {counts[twice]} rows; it must have one")
    return pd.Series(rows.groupby(level=0).mean()).reindex(samples.ids).to_numpy()


def _read_column(path: Path, column: str) -> pd.Series:
    """The numbers of a column by their ids."""
    if path.suffix not in (".csv", ".parquet"):
        raise UserError(f"{path}: a file of scores must end in .csv or .parquet")
    if not path.is_file():
        near = nearest(path.name, [each.name for each in path.parent.glob("*")]) if path.parent.is_dir() else ""
        raise UserError(f"file of scores '{path}' not found{near}")
    frame = read_frame(path)
    for name in ("id", column):
        if name not in frame:
            raise UserError(f"{path} has no column '{name}'{nearest(name, frame)}; it has {', '.join(frame)}")
    ids, values = as_text(frame, "id"), numbers(frame, column)
    if ids.isna().any():
        raise UserError(f"{path}, row {int(np.flatnonzero(ids.isna())[0])}: the id is missing")
    if len(values) and np.isnan(values).all():
        raise UserError(f"{path}: column '{column}' does not contain numbers")
    return pd.Series(values, index=ids)
