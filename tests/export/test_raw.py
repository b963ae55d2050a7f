"""A file with --preprocess is verified from the raw input onwards, and predicts from it what `predict` does."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

import plcourse.export.preprocessing
from export_modules import certificate
from plcourse import Run
from plcourse.__main__ import main
from plcourse.data.resize import Resizer
from plcourse.errors import UserError
from plcourse.export.data import ExportData
from plcourse.export.graph import Program
from plcourse.export.runners import open_exported
from plcourse.export.samples import RawSamples, Samples
from plcourse.export.scoring import RawAnswers, run_raw
from plcourse.export.verify import compare
from plcourse.training.exportable import ExportedByDefault

SHAPES = [(24, 24), (24, 60), (60, 24), (7, 11), (180, 240)]
RAW = ["--preprocess", "--probabilities", "--batch_sizes", "1,3"]


def photo_folder(root: Path, n: int = 40) -> Path:
    """Photos of five shapes: a dark or bright bar in the middle, the opposite at the edges."""
    draw = np.random.default_rng(0)
    for label, value in (("dark", 0), ("bright", 230)):
        (root / label).mkdir(parents=True)
        for i in range(n // 2):
            height, width = SHAPES[i % len(SHAPES)]
            image = draw.integers(60, 180, (height, width, 3)).astype(np.uint8)
            image[:, : width // 5] = image[:, -(width // 5) :] = 230 - value
            image[height // 3 : -(height // 3), width // 3 : -(width // 3)] = value
            Image.fromarray(image).save(root / label / f"{i:02d}.png")
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photo_folder(tmp_path_factory.mktemp("raw") / "photos")


def fit(photos: Path, rule: str, *more: str) -> None:
    data = {"source": "image_folder", "root": photos, "image_size": "[20,28]", "resize": rule, "augment": "null"}
    data |= {"val_size": 0.2, "test_size": 0.3, "batch_size": 16}
    network = {"channels": 3, "widths": "[8]", "num_classes": 2}
    words = [f"--data.init_args.{key}={value}" for key, value in data.items()]
    words += [f"--model.init_args.network.init_args.{key}={value}" for key, value in network.items()]
    main(["fit", "-c", "export/classifier", *words, "--model.init_args.num_classes=2", "--trainer.max_epochs=4", *more])


def assert_as_predicted(run: Run, photos: Path, name: str, atol: float) -> None:
    """Asserts that the exported file predicts from the raw pixels of each photo what `predict` did."""
    rows = pd.concat(pd.read_parquet(path) for path in run.predictions)
    runner, card = open_exported(run, name)
    shapes = set()
    samples: Any = rows.itertuples()
    for row in samples:
        with Image.open(photos / str(row.id)) as image:
            raw = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)[None])
        shapes.add(raw.shape)
        (probability,) = runner([raw])
        np.testing.assert_allclose(probability[0], row.probability, atol=atol)
        assert card.class_names[int(probability.argmax())] == row.label_name
    assert len(shapes) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["crop", "stretch", "pad"])
def test_photos_of_all_shapes_through_fit_predict_export(photos: Path, runs: Path, rule: str) -> None:
    names = {"crop": "onnx,onnx_int8,torchscript_script", "stretch": "onnx", "pad": "torch_export"}[rule]
    fit(photos, rule, "--then", "test,predict,export", "--format", names, *RAW)
    run = Run.load("export/classifier")
    trained = run.eval("test")["metrics"]["test/accuracy"]
    for name in names.split(","):
        row = certificate(run)[name]
        assert row["status"] == "verified"
        assert row["metric"]["trained"] == trained
        assert {f"{height} x {width}" for height, width in SHAPES} | {"2 x 3", "901 x 1203"} <= row["raw_shapes"].keys()
        assert open_exported(run, name)[1].data["resize"] == rule
        assert_as_predicted(run, photos, name, 0.02 if "int8" in name else 1e-4)


class Squeezer(Resizer):
    """Squeezes the whole image, whatever the rule is."""

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Resizes as an earlier version did."""
        size = (self.rows, self.columns)
        return functional.interpolate(pixels_BCHW.float(), size=size, mode="bilinear", antialias=True)


@pytest.mark.medium
@pytest.mark.parametrize("source", ["photos", pytest.param("digits", marks=pytest.mark.slow)])
def test_another_resize_in_the_graph_fails_the_export(
    photos: Path, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    """Also if all test images have the training shape, so that none of them is resized."""
    if source == "photos":
        fit(photos, "crop")
    else:
        main(["fit", "-c", "export/classifier", "--data.init_args.source=digits", "--trainer.max_steps=2"])
    monkeypatch.setattr(plcourse.export.preprocessing, "Resizer", Squeezer)
    capsys.readouterr()
    with pytest.raises(SystemExit) as status:
        main(["export", "--run", "export/classifier", *RAW])
    assert status.value.code == 1
    printed = capsys.readouterr()
    assert "onnx is exported, not verified" in printed.err
    assert "raw image of 2 x 3 pixels" in printed.out
    assert "as the data module resizes it" in printed.out
    run = Run.load("export/classifier")
    assert not json.loads((run.path / "export/manifest.json").read_text())["artefacts"]["onnx"]["verified"]


class Mean(torch.nn.Module):
    """Two scores: the mean of the left half and of the right."""

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Images in, [B, 2] out."""
        return torch.stack([half.mean(dim=(1, 2, 3)) for half in image_BCHW.chunk(2, dim=3)], dim=1)


def raw_program(photos: Path, rule: Any = "crop") -> tuple[Any, ExportData]:
    data = ExportData("image_folder", str(photos), (20, 28), rule, test_size=0.3, val_size=0)
    data.setup("test")
    program: Any = Program(Mean(), ExportedByDefault("image"), data.state_dict(), True, False, data)  # pyright: ignore[reportArgumentType]
    return program, data


def test_batches_of_raw_images_are_of_one_shape_and_take_all_shapes_in_turn(photos: Path) -> None:
    program, data = raw_program(photos)
    raw = RawSamples.of(program, data)
    assert raw is not None
    assert sum(len(group.ids) for group in raw.groups) == 12
    seen: list[tuple[int, ...]] = []

    def runner(inputs: Any) -> list[np.ndarray]:
        seen.append(inputs[0].shape)
        return program.eager(inputs)

    port = program.card("onnx", [torch.from_numpy(raw.groups[0].inputs[0])], {}, {}).outputs
    for size in (1, 3):
        seen.clear()
        found = compare(runner, raw.groups, size, port)
        assert found["samples"] == 12
        assert found["agreement"] == 1
        assert found["max_deviation"] < 1e-5
        assert {shape[0] for shape in seen} == {size}
        assert {shape[2:] for shape in seen[: len(raw.groups)]} == {group.inputs[0].shape[2:] for group in raw.groups}


def test_a_score_on_raw_images_keeps_the_order_of_the_batch(photos: Path) -> None:
    program, data = raw_program(photos, "pad")
    batch = next(iter(data.test_dataloader()))
    (found,) = run_raw(program.eager, data.raw_inputs(batch["id"]), torch.uint8)
    np.testing.assert_allclose(found, Mean()(batch["image"]), atol=1e-5)
    answers = RawAnswers(program)
    answers.batch = batch
    with pytest.raises(UserError, match="the test_step of Mean changes a batch before its forward"):
        answers(batch["image"].flip(-1))


def test_a_data_module_that_knows_no_raw_images_takes_pixels_of_the_trained_size_alone(photos: Path) -> None:
    """What cannot be verified does not go into the graph."""
    program, data = raw_program(photos)
    fixed = Program(program.module, program.exportable, program.data, preprocess=True)
    assert not fixed.takes_any_size
    assert "resize" not in fixed.data
    assert RawSamples.of(fixed, data) is None
    samples = Samples.of(fixed, data.test_dataloader())
    card = fixed.card("onnx", [torch.from_numpy(samples.inputs[0])], {}, {})
    assert card.inputs[0].shape == ["batch", 3, 20, 28]
    np.testing.assert_allclose(fixed.eager(samples.inputs)[0], samples.outputs[0], atol=1e-5)


@pytest.mark.medium
def test_rows_of_a_table_go_in_as_they_were_written(runs: Path, tmp_path: Path) -> None:
    """One column is large and varies little, which float32 could not standardize."""
    draw = np.random.default_rng(0)
    frame = pd.DataFrame(draw.normal(size=(120, 3)), columns=["a", "b", "c"])
    frame["large"] = 1e7 + draw.normal(size=120)
    label = np.where(frame["large"] - 1e7 + frame["a"] > 0, "yes", "no")
    frame.assign(label=label).to_csv(tmp_path / "rows.csv", index=False)
    words = ["--data.init_args.source=table", f"--data.init_args.root={tmp_path / 'rows.csv'}"]
    words += ["--model.init_args.network.init_args.in_features=4", "--model.init_args.network.init_args.num_classes=2"]
    words += ["--model.init_args.num_classes=2", "--trainer.max_epochs=2", "--data.init_args.label_column=label"]
    main(["fit", "-c", "evaluation/tabular", *words, "--then", "test,predict,export", "--format", "onnx", *RAW])
    run = Run.load("evaluation/tabular")
    row = certificate(run)["onnx"]
    assert row["status"] == "verified"
    assert row["metric"]["trained"] == run.eval("test")["metrics"]["test/accuracy"]
    runner, card = open_exported(run, "onnx")
    assert (card.inputs[0].dtype, card.data["features"]) == ("float64", ["a", "b", "c", "large"])
    predicted = pd.concat(pd.read_parquet(path) for path in run.predictions)
    samples: Any = predicted.itertuples()
    for sample in samples:
        numbers = frame.iloc[[int(str(sample.id).rpartition("/")[2])]].to_numpy()
        (probability,) = runner([numbers])
        np.testing.assert_allclose(probability[0], sample.probability, atol=1e-5)
