"""The files of a cross-validated run are complete and agree with each other."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import pytorch_lightning as pl
import torch
from scipy import stats
from torch.nn.functional import cross_entropy

import plcourse
from kfold_configs import kfold_config, own_config
from plcourse import Run
from plcourse.data.images import fit_normalization
from plcourse.ddp.data import ImageData
from plcourse.ddp.model import ImageClassifier
from plcourse.ddp.networks import MLP
from plcourse.errors import UserError
from plcourse.kfold.data import TableData
from plcourse.verbs.compare.cells import read_cells
from support import assert_equal
from trainers import quiet_trainer


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three folds, scored and used in every way."""
    root = tmp_path_factory.mktemp("finished")
    return plcourse.run("fit", kfold_config(), then=["validate", "test", "predict"], runs_root=root)


@pytest.fixture(scope="module")
def out_of_fold(finished: Run) -> pd.DataFrame:
    return pq.read_table(finished.path / "predictions" / "out_of_fold.parquet").to_pandas()


def scores(finished: Run, k: int, stage: str) -> dict[str, float]:
    return Run(finished.path / "folds" / str(k)).eval(stage)["metrics"]


def member(finished: Run, k: int) -> tuple[ImageClassifier, ImageData]:
    """The model of a fold with its data, put together by hand."""
    checkpoint = torch.load(finished.path / f"folds/{k}/checkpoints/best.ckpt", weights_only=True)
    model = ImageClassifier(MLP(hidden=(32,), dropout=0.2)).eval()
    model.load_state_dict(checkpoint["state_dict"])
    data = ImageData("digits")
    data.load_state_dict(checkpoint["ImageData"])
    return model, data


@pytest.fixture(scope="module")
def probability(finished: Run) -> torch.Tensor:
    """The mean over the folds, each with images as its own normalization makes them."""
    found = []
    for k in range(3):
        model, data = member(finished, k)
        with torch.no_grad():
            found.append(torch.cat([model(batch["image"]).softmax(1) for batch in data.test_dataloader()]))
    return torch.stack(found).mean(0)


@pytest.fixture(scope="module")
def label() -> torch.Tensor:
    return torch.cat([batch["label"] for batch in ImageData("digits").test_dataloader()])


@pytest.mark.medium
class TestOutOfFold:
    def test_each_sample_is_there_once(self, out_of_fold: pd.DataFrame) -> None:
        assert sorted(out_of_fold["id"]) == sorted(ImageData("digits").ids)
        assert set(out_of_fold["repeat"]) == {0}
        assert set(out_of_fold["fold"]) == {0, 1, 2}

    def test_labels_are_those_of_the_data(self, out_of_fold: pd.DataFrame) -> None:
        data = ImageData("digits")
        label_of = dict(zip(data.ids, data.labels.tolist(), strict=True))
        assert [label_of[name] for name in out_of_fold["id"]] == out_of_fold["label"].tolist()

    def test_they_reproduce_the_scores_of_the_folds(self, finished: Run, out_of_fold: pd.DataFrame) -> None:
        folds: Any = out_of_fold.groupby("fold")
        for k, rows in folds:
            known = scores(finished, int(str(k)), "val")
            assert rows["loss"].mean() == pytest.approx(known["val/loss"], rel=1e-5)
            assert (rows["prediction"] == rows["label"]).mean() == pytest.approx(known["val/accuracy"], abs=1e-6)

    def test_columns_agree(self, out_of_fold: pd.DataFrame) -> None:
        probability = np.stack(out_of_fold["probability"].to_list())
        np.testing.assert_allclose(probability.sum(axis=1), 1)
        assert (probability.argmax(axis=1) == out_of_fold["prediction"]).all()
        of_label = probability[np.arange(len(probability)), out_of_fold["label"]]
        np.testing.assert_allclose(-np.log(of_label), out_of_fold["loss"])

    def test_they_are_not_listed_as_predictions_of_the_run(self, finished: Run) -> None:
        assert [path.name for path in finished.predictions] == ["part-00000.parquet"]

    def test_each_repeat_has_every_sample(self, runs: Path) -> None:
        changes = {"n_splits": 2, "n_repeats": 2, "monitor": "val/loss"}
        run = plcourse.run("fit", kfold_config(trainer__fit_loop__init_args=changes, trainer__max_epochs=1))
        rows = pq.read_table(run.path / "predictions" / "out_of_fold.parquet").to_pandas()
        assert set(Counter(zip(rows["id"], rows["repeat"], strict=True)).values()) == {1}
        assert len(rows) == 2 * len(ImageData("digits").ids)
        assert rows.groupby("fold")["repeat"].first().tolist() == [0, 0, 1, 1]


@pytest.mark.medium
def test_averaged_folds_are_scored_by_their_averages(runs: Path) -> None:
    averaging = {"class_path": "pytorch_lightning.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.9}}
    run = plcourse.run("fit", kfold_config([averaging]))
    rows = pq.read_table(run.path / "predictions" / "out_of_fold.parquet").to_pandas()
    rows = rows[rows["fold"] == 1]
    pool, held_out = ImageData("digits"), set(rows["id"])
    data = pool.with_split([name for name in pool.ids if name not in held_out], list(rows["id"]))
    checkpoint = torch.load(run.path / "folds/1/checkpoints/best.ckpt", weights_only=True)
    model = ImageClassifier(MLP(hidden=(32,), dropout=0.2)).eval()
    loss = {}
    for weights in ("state_dict", "current_model_state"):
        model.load_state_dict(checkpoint[weights])
        with torch.no_grad():
            found = [cross_entropy(model(b["image"]), b["label"], reduction="none") for b in data.val_dataloader()]
        loss[weights] = float(torch.cat(found).mean())
    assert rows["loss"].mean() == pytest.approx(loss["state_dict"], rel=1e-5)
    assert rows["loss"].mean() != pytest.approx(loss["current_model_state"], rel=1e-2)


@pytest.mark.medium
class TestValidate:
    def test_recomputes_the_scores_of_the_fit(self, finished: Run) -> None:
        for k in range(3):
            after = json.loads((finished.path / f"folds/{k}/eval/val.json").read_text())
            during = json.loads((finished.path / f"folds/{k}/eval/val-1.json").read_text())
            assert after["metrics"] == during["metrics"]
            assert after["coverage"] == during["coverage"]

    def test_reports_the_means_of_the_summary(self, finished: Run) -> None:
        summary = json.loads((finished.path / "summary.json").read_text())
        found = finished.eval("val")
        assert found["metrics"].keys() == summary["metrics"].keys()
        for name, value in found["metrics"].items():
            assert value == pytest.approx(summary["metrics"][name]["mean"], rel=1e-6)
        assert found["coverage"] == {"expected": 1438, "seen": 1438, "twice": 0}


@pytest.mark.medium
class TestEnsemble:
    def test_is_what_test_scores(self, finished: Run, probability: torch.Tensor, label: torch.Tensor) -> None:
        metrics = finished.eval("test")["metrics"]
        loss = torch.nn.functional.nll_loss(probability.log(), label)
        assert metrics["test/loss"] == pytest.approx(float(loss), rel=1e-5)
        assert metrics["test/accuracy"] == pytest.approx(float((probability.argmax(1) == label).float().mean()))
        assert finished.eval("test")["coverage"] == {"expected": 359, "seen": 359, "twice": 0}

    def test_is_what_predict_writes(self, finished: Run, probability: torch.Tensor) -> None:
        rows = pq.read_table(finished.predictions[0]).to_pandas()
        assert len(rows) == 359
        np.testing.assert_allclose(np.stack(rows["probability"].to_list()), probability, rtol=1e-4, atol=1e-7)
        assert rows["label"].tolist() == probability.argmax(1).tolist()

    def test_a_fold_evaluated_alone_has_the_same_scores(self, finished: Run) -> None:
        before = scores(finished, 1, "test")
        fold = Run(finished.path / "folds" / "1")
        assert fold.test() == before
        assert fold.validate() == scores(finished, 1, "val")

    def test_predicts_new_files(self, finished: Run, tmp_path: Path) -> None:
        from PIL import Image

        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "new.png")
        files = finished.predict({"data.init_args.predict_paths": [str(tmp_path / "new.png")]})
        assert pq.read_table(files[0]).num_rows == 1


@pytest.mark.medium
class TestWholeRun:
    def test_its_checkpoint_is_the_best_fold(self, finished: Run) -> None:
        best = min(range(3), key=lambda k: scores(finished, k, "val")["val/loss"])
        own = torch.load(finished.checkpoint("best"), weights_only=True)
        fold = torch.load(finished.path / f"folds/{best}/checkpoints/best.ckpt", weights_only=True)
        assert_equal(own["state_dict"], fold["state_dict"], "state_dict")
        assert own["ImageData"] == fold["ImageData"]

    def test_its_best_is_the_mean(self, finished: Run) -> None:
        mean = np.mean([scores(finished, k, "val")["val/loss"] for k in range(3)])
        assert finished.record["best"]["metric"] == "val/loss"
        assert finished.record["best"]["value"] == pytest.approx(mean)

    def test_the_interval_is_that_of_nadeau_and_bengio(self, finished: Run) -> None:
        summary = json.loads((finished.path / "summary.json").read_text())
        values = [scores(finished, k, "val")["val/accuracy"] for k in range(3)]
        ratio = np.mean([row["n_val"] / row["n_train"] for row in summary["folds"]])
        half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) * np.sqrt(1 / 3 + ratio)
        found = summary["metrics"]["val/accuracy"]
        assert (found["low"], found["high"]) == pytest.approx((np.mean(values) - half, np.mean(values) + half))
        assert found["naive_high"] - found["naive_low"] < found["high"] - found["low"]

    def test_its_table_has_a_row_per_fold_and_score(self, finished: Run) -> None:
        rows = [(row["step"], row["value"]) for row in finished.metrics if row["metric"] == "val/loss"]
        assert rows == [(k, scores(finished, k, "val")["val/loss"]) for k in range(3)]

    def test_compare_sees_its_folds(self, finished: Run) -> None:
        cells, _ = read_cells([str(finished.path)], finished.path.parents[2])
        assert [cell.fold for cell in cells] == [0, 1, 2]
        assert {cell.steps for cell in cells} == {30}
        for k, cell in enumerate(cells):
            assert cell.scores["eval"]["val/loss"] == scores(finished, k, "val")["val/loss"]
            assert (cell.sizes["n_train"], cell.sizes["n_val"]) in {(958, 480), (959, 479)}


class TestNothingLeaks:
    """What is held out cannot move the weights: the fold is fitted again with noise in place of it."""

    def weights(self, data: Any, folder: Path) -> dict[str, torch.Tensor]:
        pl.seed_everything(0, verbose=False)
        model = ImageClassifier(MLP(hidden=(8,)))
        trainer = quiet_trainer(max_epochs=1, limit_val_batches=0, default_root_dir=str(folder))
        trainer.fit(model, data)
        return model.network.state_dict()

    def held_out_matters(self, split: Any, tmp_path: Path) -> bool:
        ends = []
        for noisy in (False, True):
            data = ImageData("digits")
            train, val = data.ids[200:], data.ids[:200]
            if noisy:
                rows = [data.splits.source.ids.index(name) for name in val]
                data.splits.source.images = data.splits.source.images.clone()  # pyright: ignore
                data.splits.source.images[rows] = 255  # pyright: ignore
                vars(data.splits)["parts"] = ImageData("digits").splits.parts
            ends.append(self.weights(split(data, train, val), tmp_path / str(noisy)))
        return not all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])

    def test_the_normalization_is_fitted_inside_the_fold(self, tmp_path: Path) -> None:
        assert not self.held_out_matters(lambda data, train, val: data.with_split(train, val), tmp_path)

    def test_a_planted_leak_is_caught(self, tmp_path: Path) -> None:
        def leaking(data: ImageData, train: list[str], val: list[str]) -> ImageData:
            everything = data.splits._pool
            fold = data.with_split(train, val)
            vars(fold.splits)["_fitted"] = fit_normalization(data.splits.source, everything)
            return fold

        assert self.held_out_matters(leaking, tmp_path)

    def test_the_scale_of_a_table_is_that_of_the_training_rows(self) -> None:
        whole = TableData("diabetes")
        fold = whole.with_split(whole.ids[50:], whole.ids[:50])
        rows = fold.parts["train"]
        assert fold.scale["target_mean"] == pytest.approx(whole.table.targets[rows].mean())
        assert fold.scale["mean"] == pytest.approx(whole.table.features[rows].mean(axis=0).tolist())
        assert fold.scale != whole.scale

    @pytest.mark.medium
    def test_the_loop_refuses_a_sample_in_both_parts(self, runs: Path) -> None:
        config = own_config(leak=True)
        with pytest.raises(UserError, match=r"fold 0: sample p\d+ is held out, but Points trains on it"):
            plcourse.run("fit", config, trust=["own_kfold"])

    @pytest.mark.medium
    @pytest.mark.parametrize(
        ("data", "words"),
        [
            ({"triples": True}, r"sample p\d+ is held out"),
            ({"with_ids": False}, r"sample \d+ of validation batch \d+ is held out"),
        ],
    )
    def test_the_loop_refuses_such_a_sample_in_tuples(self, runs: Path, data: dict[str, bool], words: str) -> None:
        with pytest.raises(UserError, match=f"fold 0: {words}, but Points trains on it"):
            plcourse.run("fit", own_config(leak=True, **data), trust=["own_kfold"])


@pytest.mark.medium
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
class TestUserDefinedModelAndData:
    def test_model_and_data_are_cross_validated(self, runs: Path) -> None:
        run = plcourse.run("fit", own_config(), then=["validate", "test", "predict"], trust=["own_kfold"])
        rows = pq.read_table(run.path / "predictions" / "out_of_fold.parquet").to_pandas()
        assert sorted(rows["id"]) == sorted(f"p{i}" for i in range(90))
        assert run.eval("val")["coverage"] == {"expected": 90, "seen": 90, "twice": 0}
        singles = [Run(run.path / "folds" / str(k)).eval("test")["metrics"]["test/loss"] for k in range(3)]
        # the loss is convex in the probabilities, so that the ensemble cannot be worse than the mean of its members
        assert run.eval("test")["metrics"]["test/loss"] <= np.mean(singles)

    def test_empty_slots_get_the_evaluation_loops_of_the_fit_loop(self, runs: Path) -> None:
        bare = own_config()
        for slot in ("validate_loop", "test_loop", "predict_loop"):
            del bare["trainer"][slot]
        made = [
            plcourse.run("fit", config, then=["validate", "test", "predict"], trust=["own_kfold"])
            for config in (own_config(), bare)
        ]
        for stage in ("val", "test"):
            first, second = (run.eval(stage) for run in made)
            assert first["metrics"] == second["metrics"]
            assert first["coverage"] == second["coverage"]
        first, second = (pq.read_table(run.predictions[0]) for run in made)
        assert first.equals(second)

    def test_batches_without_ids_have_scores_and_no_table(self, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = plcourse.run("fit", own_config(with_ids=False), then=["test"], trust=["own_kfold"])
        assert len(json.loads((run.path / "summary.json").read_text())["folds"]) == 3
        assert not (run.path / "predictions").exists()
        assert "no out-of-fold predictions: they need batches with 'id' and 'label'" in capsys.readouterr().out
