"""No score counts a sample that the weights were trained on, in any split, folder or ensemble."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from plcourse.data import provenance
from plcourse.data.provenance import KEY, Identities, Training
from plcourse.ddp.data import ImageData
from plcourse.errors import UserError
from plcourse.evaluation.data import EvaluationData
from plcourse.evaluation.model import Classifier
from plcourse.nlp.splits import OneText, TextSplits
from plcourse.training.trainer import Trainer
from trainers import quiet_trainer


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def _trainer(folder: Path, **changes: Any) -> Trainer:
    return quiet_trainer(default_root_dir=folder, **{"max_epochs": 1, **changes})


def _linear(**changes: Any) -> Classifier:
    return Classifier(torch.nn.Linear(3, 2), num_classes=2, **changes)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    draw = np.random.default_rng(1)
    frame = pd.DataFrame(draw.normal(size=(80, 3)), columns=["a", "b", "c"])
    frame["label"] = np.where(frame.a > 0, "up", "down")
    frame.to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv"


def _data(table: Path, **changes: Any) -> EvaluationData:
    return EvaluationData("table", str(table), **changes)


def _fitted(folder: Path, data: Any, model: Any = None) -> Path:
    _trainer(folder).fit(model or _linear(), data)
    return folder / "checkpoints" / "best.ckpt"


def _tested(folder: Path, data: Any, path: Path | None, model: Any = None, **changes: Any) -> Any:
    trainer = _trainer(folder, **changes)
    trainer.test(model or _linear(), datamodule=data, ckpt_path=path, verbose=False)
    return trainer


def test_the_own_test_part_is_scored_and_that_of_another_split_is_not(tmp_path: Path, table: Path) -> None:
    first, data = _data(table), _data(table, split_seed=5)
    path = _fitted(tmp_path / "run", first)
    assert not _tested(tmp_path, _data(table), path).training_samples.findings
    data.setup("test")
    own, other = (each.splits.parts for each in (data, first))  # pyright: ignore[reportAttributeAccessIssue]
    seen = np.intersect1d(own["test"], other["train"])
    words = rf"was trained on {len(seen)} of the 16 test samples, the first is table/{seen[0]:05d} .*split_seed=0.*=5"
    with pytest.raises(UserError, match=words):
        _tested(tmp_path, data, path)
    asked = _tested(tmp_path, data, path, allow_training_samples=True)
    assert asked.training_samples.findings == {"training_samples": len(seen)}
    for changed in (_data(table, test_size=0.6), _data(table, val_size=0.4)):
        with pytest.raises(UserError, match="was trained on"):
            _trainer(tmp_path).validate(_linear(), datamodule=changed, ckpt_path=path, verbose=False)


def test_rows_are_known_by_content_in_another_file_order_and_company(tmp_path: Path, table: Path) -> None:
    path = _fitted(tmp_path / "run", _data(table))
    frame = pd.read_csv(table)
    more = frame.assign(a=frame.a + 10)
    pd.concat([more, frame[["label", "c", "b", "a"]]]).to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(UserError, match=r"was trained on .*root="):
        _tested(tmp_path, _data(tmp_path / "other.csv", test_size=0.5), path)
    more.to_csv(tmp_path / "new.csv", index=False)
    assert not _tested(tmp_path, _data(tmp_path / "new.csv"), path).training_samples.findings


def test_images_of_a_training_folder_are_known_under_other_names(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for i in range(40):
        for root, pixels in (("a", draw.integers(0, 256, (4, 4))), ("b", draw.integers(0, 256, (4, 4)))):
            file = tmp_path / root / "xy"[i % 2] / f"{i:02d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(file)

    def model() -> Any:
        return Classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2)), num_classes=2)

    data = ImageData("image_folder", str(tmp_path / "a"))
    path = _fitted(tmp_path / "run", data, model())
    # the same names with other contents are other samples
    other = ImageData("image_folder", str(tmp_path / "b"))
    assert not _tested(tmp_path, other, path, model()).training_samples.findings
    trained = [data.splits.source.ids[i] for i in data.splits.parts["train"]]
    shutil.copy(tmp_path / "a" / trained[0], tmp_path / "b" / "x" / "renamed.png")
    with pytest.raises(UserError, match=r"was trained on 1 of the .* the first is x/renamed\.png"):
        _tested(tmp_path, ImageData("image_folder", str(tmp_path / "b"), test_size=30), path, model())


def test_members_of_an_ensemble_that_were_split_otherwise_are_named(tmp_path: Path, table: Path) -> None:
    own, other = (_fitted(tmp_path / str(seed), _data(table, split_seed=seed)) for seed in (0, 1))
    alike = tmp_path / "alike"
    _fitted(alike, _data(table))
    _tested(tmp_path, _data(table), own, _linear(ensemble=[str(alike)]))
    with pytest.raises(UserError, match=rf"{other} was trained on .*split_seed=1"):
        _tested(tmp_path, _data(table), own, _linear(ensemble=[str(alike), str(tmp_path / "1")]))


def test_a_member_answers_in_this_models_columns_classes_and_units(tmp_path: Path, table: Path) -> None:
    frame = pd.read_csv(table)
    (tmp_path / "sub").mkdir()
    order = tmp_path / "sub" / "table.csv"
    frame[["c", "label", "a", "b"]].assign(c=frame.c).to_csv(order, index=False)
    path = _fitted(tmp_path / "run", _data(table))
    member = _fitted(tmp_path / "member", _data(order, feature_columns=["c", "a", "b"], val_size=0.3))
    model = _linear(ensemble=[str(member)])
    _tested(tmp_path, _data(table), path, model, allow_training_samples=True)
    state = torch.load(member, weights_only=True)
    weights, known = state["state_dict"], state["EvaluationData"]
    assert known["features"] == ["c", "a", "b"]
    own = torch.load(path, weights_only=True)["EvaluationData"]
    mine, theirs = (
        torch.tensor(((frame[state["features"]] - state["mean"]) / state["std"]).to_numpy(np.float32))
        for state in (own, known)
    )
    expected = theirs @ weights["network.weight"].T + weights["network.bias"]
    torch.testing.assert_close(model._others[0](mine), expected, rtol=1e-5, atol=1e-5)


def test_many_hashes_lie_beside_the_checkpoint_and_must_belong_to_it(
    tmp_path: Path, table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(provenance, "INSIDE", 10)
    path = _fitted(tmp_path / "run", _data(table))
    (state,) = torch.load(path, weights_only=True)[KEY]
    assert state["hashes"] is None
    assert state["count"] == 56
    assert state["terms"]["split_seed"] == 0
    with pytest.raises(UserError, match="was trained on"):
        _tested(tmp_path, _data(table, split_seed=5), path)
    file = path.parent / f"training_samples-{state['digest']}.npz"
    np.savez(file, hashes=np.arange(3, dtype=np.uint64), terms="{}", count=3)  # of another training
    _tested(tmp_path, _data(table, split_seed=5), path)
    assert f"training samples are not known ({file.name} is missing)" in capsys.readouterr().out


def test_a_checkpoint_from_before_still_evaluates_with_a_line(
    tmp_path: Path, table: Path, capsys: pytest.CaptureFixture
) -> None:
    path = _fitted(tmp_path / "run", _data(table))
    old = {key: value for key, value in torch.load(path, weights_only=True).items() if key != KEY}
    torch.save(old, tmp_path / "old.ckpt")
    _tested(tmp_path, _data(table, split_seed=5), tmp_path / "old.ckpt")
    assert "its training samples are not known (the checkpoint does not list them)" in capsys.readouterr().out


def test_weights_that_went_on_with_other_data_remember_both(tmp_path: Path, table: Path) -> None:
    first = _fitted(tmp_path / "run", _data(table, split_seed=1))
    trainer = _trainer(tmp_path / "next", max_epochs=2)
    trainer.fit(_linear(), _data(table), ckpt_path=first)
    path = tmp_path / "next" / "checkpoints" / "best.ckpt"
    assert len(torch.load(path, weights_only=True)[KEY]) == 2
    with pytest.raises(UserError, match="split_seed=1"):
        _tested(tmp_path, _data(table), path)
    again = _trainer(tmp_path / "next", max_epochs=3)
    again.fit(_linear(), _data(table), ckpt_path=tmp_path / "next" / "checkpoints" / "last.ckpt")
    assert len(torch.load(path, weights_only=True)[KEY]) == 2  # the same training, resumed


def test_the_training_part_itself_can_be_scored_by_its_name(tmp_path: Path, table: Path) -> None:
    path = _fitted(tmp_path / "run", _data(table))
    data = _data(table)
    data.setup("test")
    model, trainer = _linear(), _trainer(tmp_path)
    loader = data.splits.eval_loader(trainer, "train", 64)
    trainer.test(model, dataloaders=loader, ckpt_path=path, verbose=False)
    assert not trainer.training_samples.findings


def test_the_command_line_refuses_and_leaves_no_score_behind(tmp_path: Path, forked: Any, runs: Path) -> None:
    digits = ("--data.init_args.source=digits", "--model.init_args.network.init_args.in_features=64")
    forked("fit", "-c", "ddp/mlp", *digits, "--trainer.max_epochs=1")
    told = forked("test", "--run", "ddp/mlp", "--data.init_args.split_seed=3", status=2)
    assert "test samples, the first is digits/" in told.stderr
    (run,) = {path.resolve() for path in (runs / "ddp" / "mlp").iterdir()}
    assert not (run / "eval").exists()
    forked("test", "--run", "ddp/mlp", "--data.init_args.split_seed=3", "--trainer.allow_training_samples=true")
    (report,) = (run / "eval").glob("test*.json")
    assert json.loads(report.read_text())["training_samples"] > 100


def _texts(path: Path, seed: int = 0) -> TextSplits:
    return TextSplits("text_table", str(path), "text", "label", "raise", 0.1, 0.2, seed, None, "words", 100, None)


def test_texts_are_known_by_their_letters_among_any_others(tmp_path: Path) -> None:
    rows = [(f"The {w}, number {i}: a film.", "ab"[i % 2]) for i, w in enumerate(map(str, range(1000, 1060)))]
    pd.DataFrame(rows, columns=["text", "label"]).to_csv(tmp_path / "all.csv", index=False)
    parts = _texts(tmp_path / "all.csv")
    training = Training.on(parts.identities("train"), parts.terms)
    assert not len(parts.identities("test").among(training.hashes))
    trained = parts.texts("train")
    loud = [(text.upper() + "!!", "ab"[i % 2]) for i, text in enumerate(trained[:10])]
    new = [(f"Another story of {i}", "ab"[i % 2]) for i in range(30)]
    pd.DataFrame([*loud, *new], columns=["text", "label"]).to_csv(tmp_path / "mixed.csv", index=False)
    mixed = _texts(tmp_path / "mixed.csv")
    found = [mixed.identities(part).among(training.hashes) for part in ("train", "val", "test")]
    assert sum(map(len, found)) == 10


def test_a_long_text_is_known_by_place_and_content(tmp_path: Path) -> None:
    text = "".join(f"line {i} of a story that goes on\n" for i in range(400))
    (tmp_path / "story.txt").write_text(text)
    (tmp_path / "longer.txt").write_text(text + "and on it goes without an end in sight\n" * 60)
    (tmp_path / "other.txt").write_text(text.replace("story", "tales"))

    def of(name: str, val: float = 0.1, test: float = 0.2) -> OneText:
        return OneText(str(tmp_path / name), val, test, "characters", 100)

    training = Training.on(of("story.txt").identities("train"), {})

    def seen(parts: OneText, part: str = "test") -> int:
        return len(parts.identities(part).among(training.hashes))

    assert seen(of("story.txt")) == seen(of("story.txt"), "val") == 0
    n, known = len(text), len(of("story.txt").texts("train")[0]) // 64
    assert seen(of("story.txt", 0.1, 0.5)) == known - -(-(n - round(0.5 * n)) // 64)
    assert seen(of("longer.txt", 0.0, 0.9)) > 0
    assert seen(of("other.txt", 0.1, 0.5)) == 0


def test_the_names_of_what_is_known_are_right() -> None:
    samples = Identities(np.array([[5, 9], [7, 7], [8, 2]], np.uint64), ["a", "b", "c"])
    assert samples.among(np.array([2, 5], np.uint64)).tolist() == [0, 2]
    assert samples.among(np.array([], np.uint64)).tolist() == []
