"""Hard samples get high scores, nothing leaks, and unusable files are refused in one line."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import pytorch_lightning as pl
import torch

from plcourse import Run
from plcourse.curriculum.data import CurriculumData, noisy_labels
from plcourse.curriculum.loop import CurriculumLoop
from plcourse.curriculum.model import CurriculumClassifier
from plcourse.curriculum.scorers import (
    ClassifierMargin,
    CrossValidatedLoss,
    ReferenceLoss,
    ScoreColumn,
    Scorer,
    TrainingSamples,
    write_scores,
)
from plcourse.data import keys_of
from plcourse.ddp.networks import MLP
from plcourse.errors import UserError
from plcourse.training.run_checkpoint import RunCheckpoint
from trainers import quiet_trainer


@pytest.fixture(scope="module")
def samples() -> TrainingSamples:
    return training_samples(CurriculumData("digits"))


def training_samples(data: CurriculumData, module: Any = None) -> TrainingSamples:
    data.setup("fit")
    part: Any = data.train_dataloader().data
    return TrainingSamples(part.ids, part.labels, part.source.ids, module, data.scoring_dataloader)


class TestClassifierMargin:
    def test_wrong_labels_are_hard(self) -> None:
        noisy = training_samples(CurriculumData("digits", label_noise=0.3))
        clean = training_samples(CurriculumData("digits"))
        wrong = noisy.labels != clean.labels
        scores = ClassifierMargin()(noisy)
        hardest = np.argsort(-scores)[: wrong.sum()]
        assert wrong[hardest].mean() > 0.8
        assert (scores[wrong] > 0).mean() > 0.9  # the classifier that never saw them contradicts

    def test_a_sample_is_scored_by_a_classifier_that_never_saw_it(self, samples: TrainingSamples) -> None:
        """A label made wrong on one sample alone cannot be learned: it stays the hardest of all, or nearly."""
        labels = samples.labels.copy()
        labels[7] = (labels[7] + 5) % 10
        changed = replace(samples, labels=labels)
        scores = ClassifierMargin(C=100.0)(changed)
        assert (scores > scores[7]).mean() < 0.02

    def test_it_is_the_same_every_time(self, samples: TrainingSamples) -> None:
        first = ClassifierMargin()(samples)
        ClassifierMargin._known.clear()
        assert np.array_equal(ClassifierMargin()(samples), first)

    def test_two_classes_have_margins_too(self, samples: TrainingSamples) -> None:
        binary = replace(samples, labels=(samples.labels >= 5).astype(np.int64))
        assert (ClassifierMargin()(binary) < 0).mean() > 0.8

    def test_too_few_samples_of_a_class(self, samples: TrainingSamples) -> None:
        lonely = samples.labels.copy()
        lonely[0] = 77
        changed = replace(samples, labels=lonely)
        with pytest.raises(UserError, match="11 classes and 1 samples of the rarest: use a smaller n_splits"):
            ClassifierMargin()(changed)


def noisy_fraction(fraction: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(1000) % 10
    return labels, noisy_labels(labels, keys_of(map(str, range(1000))), 10, fraction, seed)


class TestLabelNoise:
    def test_it_replaces_exactly_the_given_fraction_by_other_classes(self) -> None:
        labels, noisy = noisy_fraction(0.4)
        assert (labels != noisy).sum() == 400
        assert set(noisy.tolist()) == set(range(10))
        shifts = (noisy - labels)[labels != noisy] % 10
        assert np.bincount(shifts, minlength=10)[1:].min() > 20  # each other class has its turn

    def test_it_follows_its_seed(self) -> None:
        assert np.array_equal(noisy_fraction(0.4)[1], noisy_fraction(0.4)[1])
        assert not np.array_equal(noisy_fraction(0.4)[1], noisy_fraction(0.4, seed=1)[1])

    def test_validation_and_test_labels_stay_correct(self) -> None:
        clean, noisy = CurriculumData("digits"), CurriculumData("digits", label_noise=0.4)
        for data in (clean, noisy):
            data.setup("fit")
        for stage in ("val", "test"):
            a, b = (getattr(data, f"{stage}_dataloader")().data.labels for data in (clean, noisy))
            assert np.array_equal(a, b)
        a, b = (data.train_dataloader().data.labels for data in (clean, noisy))  # pyright: ignore[reportAttributeAccessIssue]
        assert (a != b).sum() == round(0.4 * len(a))

    def test_a_fraction_out_of_range_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"label_noise is 1\.2; it must be a fraction from 0 to below 1"):
            CurriculumData(label_noise=1.2)


def column(samples: TrainingSamples, path: Path, **changed: Any) -> np.ndarray:
    table = {"id": samples.ids, "score": np.arange(len(samples.ids), dtype=np.float64), **changed}
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(pa.table(table), path)
    else:
        pq.write_table(pa.table(table), path)
    return ScoreColumn(str(path))(samples)


class TestScoreColumn:
    @pytest.mark.parametrize("name", ["scores.csv", "scores.parquet"])
    def test_scores_are_found_by_id_in_any_order(self, samples: TrainingSamples, tmp_path: Path, name: str) -> None:
        n = len(samples.ids)
        shuffled = np.random.default_rng(0).permutation(n)
        ids = [samples.ids[i] for i in shuffled]
        extra = [name for name in samples.known_ids or () if name not in set(samples.ids)][:3]  # of the test part
        scores = column(samples, tmp_path / name, id=ids + extra, score=[float(i) for i in shuffled] + [0.0] * 3)
        assert scores.tolist() == list(range(n))

    def test_unusable_tables_are_refused(self, samples: TrainingSamples, tmp_path: Path) -> None:
        ids, n = samples.ids, len(samples.ids)
        path = tmp_path / "scores.csv"
        values = [float(i) for i in range(n)]
        fewer, more = {"id": ids[:-2], "score": values[:-2]}, {"id": [*ids, "digit/00001"], "score": [*values, 1.0]}
        for changed, message in (
            (fewer, f"2 of {n} training samples have no score, first '{ids[-2]}'"),
            (more, "1 ids are not in the data, first 'digit/00001'"),
            ({"id": [*ids, ids[3]], "score": [*values, 1.0]}, f"'{ids[3]}' has 2 rows; it must have one"),
            ({"score": [float("nan"), *values[1:]]}, f"the score of '{ids[0]}' is nan; it must be a finite number"),
            ({"score": ["hard"] * n}, "column 'score' does not contain numbers"),
        ):
            with pytest.raises(UserError) as caught:
                column(samples, path, **changed)
            assert message in str(caught.value)
            assert "\n" not in str(caught.value)

    def test_missing_files_and_columns_are_refused(self, samples: TrainingSamples, tmp_path: Path) -> None:
        column(samples, tmp_path / "scores.csv")
        with pytest.raises(UserError, match=r"file of scores '.*score\.csv' not found; did you mean 'scores\.csv'\?"):
            ScoreColumn(str(tmp_path / "score.csv"))(samples)
        with pytest.raises(UserError, match=r"has no column 'scores'; did you mean 'score'\?; it has id, score"):
            ScoreColumn(str(tmp_path / "scores.csv"), "scores")(samples)
        (tmp_path / "broken.parquet").write_bytes(b"no parquet")
        with pytest.raises(UserError, match=r"cannot read the table '.*broken\.parquet'"):
            ScoreColumn(str(tmp_path / "broken.parquet"))(samples)
        with pytest.raises(UserError, match=r"must end in \.csv or \.parquet"):
            ScoreColumn("scores.txt")(samples)


class TestCrossValidatedLoss:
    def test_the_mean_over_the_repeats(self, samples: TrainingSamples, runs: Path) -> None:
        """The table that a cross-validation writes into its run's folder."""
        n = len(samples.ids)
        run = Run.create("kfold/repeated", runs, {})
        folder = run.path / "predictions"
        folder.mkdir()
        loss = np.random.default_rng(0).exponential(size=(2, n))
        table = {
            "id": samples.ids * 2,
            "repeat": np.repeat([0, 1], n),
            "fold": np.tile(np.arange(n) % 5, 2),
            "label": np.tile(samples.labels, 2),
            "prediction": np.tile(samples.labels, 2),
            "probability": [[0.1] * 10] * (2 * n),
            "loss": loss.ravel(),
        }
        pq.write_table(pa.table(table), folder / "out_of_fold.parquet")
        for given in ("kfold/repeated", str(run.path), str(folder / "out_of_fold.parquet")):
            assert CrossValidatedLoss(given)(samples) == pytest.approx(loss.mean(axis=0))

    def test_a_run_without_the_table(self, samples: TrainingSamples, runs: Path) -> None:
        Run.create("kfold/repeated", runs, {})
        with pytest.raises(UserError, match=r"file of scores '.*out_of_fold\.parquet' not found"):
            CrossValidatedLoss("kfold/repeated")(samples)
        with pytest.raises(UserError, match="no run 'kfold/repeatd'"):
            CrossValidatedLoss("kfold/repeatd")(samples)


def test_unknown_ids_are_ignored_if_only_the_training_part_is_known(samples: TrainingSamples, tmp_path: Path) -> None:
    table = {"id": [*samples.ids, "held out"], "loss": [float(i) for i in range(len(samples.ids) + 1)]}
    pq.write_table(pa.table(table), tmp_path / "losses.parquet")
    own = replace(samples, known_ids=None)
    assert CrossValidatedLoss(str(tmp_path / "losses.parquet"))(own).tolist() == list(range(len(samples.ids)))


def test_scores_are_written_by_id_and_read_back(samples: TrainingSamples, tmp_path: Path) -> None:
    scores = np.random.default_rng(1).normal(size=len(samples.ids))
    write_scores(tmp_path / "difficulty.csv", samples.ids, scores)
    assert ScoreColumn(str(tmp_path / "difficulty.csv"))(samples).tolist() == scores.tolist()
    first = (tmp_path / "difficulty.csv").read_text().splitlines()[1]
    assert first == f"{samples.ids[int(scores.argmin())]},{scores.min()!r}".replace("np.float64(", "").replace(")", "")


class Scores(pl.Callback):
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.scores = trainer.fit_loop.scores_N  # pyright: ignore[reportAttributeAccessIssue]
        self.weights = [value.clone() for value in pl_module.state_dict().values()]


def fit(scorer: Scorer | None, *callbacks: pl.Callback, **settings: Any) -> Scores:
    pl.seed_everything(3, verbose=False)
    module, noted = CurriculumClassifier(MLP(64), lr_scheduler=None), Scores()
    settings = {"max_epochs": 1, "num_sanity_val_steps": 0, **settings}
    loop = {"fit_loop": lambda t: CurriculumLoop(t, scorer=scorer)}
    trainer = quiet_trainer(callbacks=[noted, *callbacks], **loop, **settings)
    trainer.fit(module, CurriculumData("digits"))
    return noted


@pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval")
class TestReferenceLoss:
    @pytest.fixture(autouse=True)
    def empty_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A loop writes the scores into the working folder."""
        monkeypatch.chdir(tmp_path)

    def test_the_losses_of_the_reference_and_the_models_own_weights(self, tmp_path: Path) -> None:
        fit(None, RunCheckpoint(dirpath=str(tmp_path)), max_epochs=3)
        noted = fit(ReferenceLoss(str(tmp_path / "last.ckpt")), enable_checkpointing=False)
        assert all(
            torch.equal(a, b) for a, b in zip(noted.weights, fit(None, enable_checkpointing=False).weights, strict=True)
        )
        reference = CurriculumClassifier(MLP(64))
        reference.load_state_dict(torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"])
        data = CurriculumData("digits")
        data.setup("fit")
        with torch.no_grad():
            losses = torch.cat([reference.eval().sample_losses(batch) for batch in data.scoring_dataloader()])
        assert noted.scores == pytest.approx(losses.double().numpy(), rel=1e-5, abs=1e-7)

    def test_an_unusable_reference_is_refused(self, tmp_path: Path, runs: Path) -> None:
        torch.save({"state_dict": {"other": torch.zeros(1)}}, tmp_path / "other.ckpt")
        for given, message in (
            (str(tmp_path / "other.ckpt"), "does not fit CurriculumClassifier as configured"),
            (str(tmp_path / "none.ckpt"), "there is no checkpoint"),
            ("curriculum/iid", "no run 'curriculum/iid'"),
        ):
            with pytest.raises(UserError, match=message):
                fit(ReferenceLoss(given), enable_checkpointing=False)
