"""What a checkpoint knows by name holds for other data by name: columns, classes, classes of pixels."""

from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

from plcourse.data import ImageSplits, MaskSplits
from plcourse.errors import UserError
from plcourse.evaluation.data import EvaluationData
from plcourse.evaluation.model import Classifier
from plcourse.evaluation.tables import Schema, TableSplits
from plcourse.kfold.data import TableData
from plcourse.nlp.splits import TextSplits
from plcourse.training.trainer import Trainer

Splits = TypeVar("Splits", TableSplits, ImageSplits, TextSplits)


def _table(folder: Path) -> pd.DataFrame:
    draw = np.random.default_rng(9)
    frame = pd.DataFrame({"a": draw.normal(size=120), "b": 10 * draw.normal(size=120)})
    frame["label"] = np.where(frame.a > 0.7, "ill", np.where(frame.a > 0, "sick", "well"))
    frame.to_csv(folder / "train.csv", index=False)
    return frame


def _rows(parts: TableSplits, part: str = "test") -> dict[str, tuple[torch.Tensor, int]]:
    """Features and label of each row of a part by its id."""
    batch = next(iter(parts.eval_loader(None, part, 1000)))
    ids = [name.rpartition("/")[2] for name in batch["id"]]
    return dict(zip(ids, zip(batch["features"], batch["label"].tolist(), strict=True), strict=True))


def _restored(parts: Splits, state: dict[str, Any], late: bool) -> Splits:
    if late:  # as a stock trainer restores a data module
        parts.open()
    parts.load_state_dict(state)
    parts.open()
    return parts


def _opened(folder: Path, name: str, state: dict[str, Any], late: bool) -> TableSplits:
    return _restored(TableSplits(str(folder / name), Schema()), state, late)


@pytest.mark.parametrize("late", [False, True])
def test_a_table_gives_the_same_rows_whatever_the_order_of_its_columns(tmp_path: Path, late: bool) -> None:
    frame = _table(tmp_path)
    frame.assign(visits=1)[["visits", "b", "label", "a"]].to_csv(tmp_path / "other.csv", index=False)
    trained = TableSplits(str(tmp_path / "train.csv"), Schema())
    expected = _rows(trained)
    found = _rows(_opened(tmp_path, "other.csv", trained.state_dict(), late))
    assert found.keys() == expected.keys()  # split alike, too
    for row, (features, label) in expected.items():
        assert torch.equal(found[row][0], features)
        assert found[row][1] == label


def test_a_column_that_the_model_does_not_know_may_have_gaps(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    frame = _table(tmp_path)
    frame.assign(visits=[None, *range(119)]).to_csv(tmp_path / "other.csv", index=False)
    trained = TableSplits(str(tmp_path / "train.csv"), Schema())
    assert len(_rows(_opened(tmp_path, "other.csv", trained.state_dict(), False))) == len(_rows(trained))
    assert "trained without visits; left out" in capsys.readouterr().out


@pytest.mark.parametrize("late", [False, True])
def test_classes_of_a_table_go_by_their_names(tmp_path: Path, late: bool) -> None:
    frame = _table(tmp_path)
    frame[frame.label != "ill"].to_csv(tmp_path / "two.csv", index=False)
    frame.assign(label=frame.label.replace("well", "healthy")).to_csv(tmp_path / "renamed.csv", index=False)
    frame.drop(columns="b").to_csv(tmp_path / "narrow.csv", index=False)
    state = TableSplits(str(tmp_path / "train.csv"), Schema()).state_dict()
    two = _opened(tmp_path, "two.csv", state, late)
    assert two.label_names == ["ill", "sick", "well"]
    for features, label in _rows(two).values():
        a = float(features[0]) * state["std"][0] + state["mean"][0]
        assert label == (1 if a > 0 else 2)
    with pytest.raises(UserError, match="has the class 'healthy'"):
        _opened(tmp_path, "renamed.csv", state, late)
    with pytest.raises(UserError, match="no column 'b'"):
        _opened(tmp_path, "narrow.csv", state, late)


@pytest.mark.parametrize("late", [False, True])
def test_a_regression_table_goes_by_the_names_of_its_columns(tmp_path: Path, late: bool) -> None:
    draw = np.random.default_rng(3)
    frame = pd.DataFrame({name: draw.normal(size=60) for name in ("a", "b", "target")})
    frame.to_csv(tmp_path / "train.csv", index=False)
    frame.assign(note="x")[["b", "note", "target", "a"]].to_csv(tmp_path / "other.csv", index=False)
    frame.drop(columns="a").to_csv(tmp_path / "narrow.csv", index=False)
    trained = TableData("table_file", str(tmp_path / "train.csv"))
    state = trained.state_dict()

    def of(name: str) -> TableData:
        data = TableData("table_file", str(tmp_path / name))
        if late and name != "other.csv":  # whose words would be refused before it is known that none reads them
            data.setup("test")
        data.load_state_dict(state)
        return data

    expected, found = next(iter(trained.test_dataloader())), next(iter(of("other.csv").test_dataloader()))
    assert found["id"] == expected["id"]
    assert torch.equal(found["features"], expected["features"])
    with pytest.raises(UserError, match="no column 'a'"):
        _ = of("narrow.csv").table


def _images(root: Path, classes: dict[str, int]) -> None:
    for name, value in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(12):
            Image.new("L", (4, 4), value + i).save(root / name / f"{i}.png")


@pytest.mark.parametrize("late", [False, True])
def test_images_of_some_of_the_classes_keep_their_numbers(tmp_path: Path, late: bool) -> None:
    _images(tmp_path / "all", {"ape": 0, "bee": 40, "cat": 80})
    _images(tmp_path / "some", {"bee": 40, "cat": 80})
    _images(tmp_path / "other", {"bee": 40, "dog": 80})
    state = ImageSplits("image_folder", str(tmp_path / "all"), test_size=6).state_dict()

    def of(name: str) -> ImageSplits:
        return _restored(ImageSplits("image_folder", str(tmp_path / name), test_size=6), state, late)

    batch = next(iter(of("some").eval_loader(None, "test", 100)))
    assert batch["label"].tolist() == [1 if name.startswith("bee") else 2 for name in batch["id"]]
    assert {1, 2} == set(batch["label"].tolist())
    with pytest.raises(UserError, match="has the class 'dog'"):
        of("other")


def test_classes_of_pixels_go_by_their_names(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for i in range(20):
        Image.new("L", (4, 4), i).save(tmp_path / "images" / f"{i:02d}.png")
        Image.new("L", (4, 4), 0 if i < 10 else 1).save(tmp_path / "masks" / f"{i:02d}.png")
    rows = [f"{i:02d}.png,{'xy'[i % 2]}" for i in range(20)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]))

    def of(*names: str) -> MaskSplits:
        return MaskSplits("mask_folder", str(tmp_path), mask_names=names, test_size=6)

    state = of("road", "car", "tree").state_dict()
    parts = of("tree", "road")
    parts.load_state_dict(state)
    batch = next(iter(parts.eval_loader(None, "test", 100)))
    expected = [2 if int(name[:2]) < 10 else 0 for name in batch["id"]]
    assert batch["mask"][:, 0, 0].tolist() == expected
    assert parts.mask_names == ["road", "car", "tree"]
    late = of("road", "bush")
    late.open()
    with pytest.raises(UserError, match="has the class of pixels 'bush'"):
        late.load_state_dict(state)


@pytest.mark.parametrize("late", [False, True])
def test_texts_of_other_classes_are_refused_and_others_go_by_name(tmp_path: Path, late: bool) -> None:
    words = ["alpha", "beta", "gamma", "delta"]
    rows = [(f"{words[i % 4]} number {i} of many", ("bad", "fair", "good")[i % 3]) for i in range(60)]
    frame = pd.DataFrame(rows, columns=["text", "label"])
    frame.to_csv(tmp_path / "train.csv", index=False)
    frame[frame.label != "bad"].to_csv(tmp_path / "two.csv", index=False)
    frame.assign(label=frame.label.replace("good", "fine")).to_csv(tmp_path / "other.csv", index=False)

    def of(name: str) -> TextSplits:
        table = ("text_table", str(tmp_path / name), "text", "label", "raise")
        return TextSplits(*table, 0.1, 0.2, 0, None, "words", 100, None)

    state = of("train.csv").state_dict()

    source = _restored(of("two.csv"), state, late).source
    label_of = dict(rows)
    assert [source.label_names[k] for k in source.labels] == [label_of[text] for text in source.texts]
    assert source.label_names == ["bad", "fair", "good"]
    with pytest.raises(UserError, match="has the class 'fine'"):
        _restored(of("other.csv"), state, late)


class Late(Trainer):
    """Restores the data after their setup, as Lightning's own trainer does."""

    def restore_data_first(self, data: pl.LightningDataModule) -> None:
        """Left out."""


@pytest.mark.parametrize("trainer_class", [Trainer, Late])
def test_a_trained_model_scores_a_table_in_another_order_alike(tmp_path: Path, trainer_class: type) -> None:
    frame = _table(tmp_path)
    frame[["label", "b", "a"]].to_csv(tmp_path / "other.csv", index=False)

    def trainer(cls: type = trainer_class) -> pl.Trainer:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        return cls(default_root_dir=tmp_path, max_epochs=3, accelerator="cpu", devices=1, **quiet)

    def model() -> Classifier:
        torch.manual_seed(0)
        return Classifier(torch.nn.Linear(2, 3), num_classes=3)

    fitted, first = model(), trainer(Trainer)
    first.fit(fitted, EvaluationData("table", str(tmp_path / "train.csv")))
    path = tmp_path / "checkpoints" / "best.ckpt"
    scores = [
        trainer().test(model(), datamodule=EvaluationData("table", str(tmp_path / name)), ckpt_path=path, verbose=False)
        for name in ("train.csv", "other.csv")
    ]
    assert scores[0] == scores[1]
