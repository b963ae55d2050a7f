"""An exported file equals its model in numbers, decisions and metric, in every format, or the export fails by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import torch
from onnx.external_data_helper import set_external_data
from onnx.reference import ReferenceEvaluator

from export_modules import TextClassifier, certificate
from plcourse import Run
from plcourse.__main__ import main
from plcourse.cli import latency
from plcourse.cli.request import read_request
from plcourse.data.resize import as_image, as_pixels, resized
from plcourse.errors import UserError
from plcourse.export.artifacts import Artifacts, checked_onnx
from plcourse.export.card import Card
from plcourse.export.data import ExportData
from plcourse.export.preprocessing import Pixels
from plcourse.export.runners import open_exported
from plcourse.export.samples import Samples
from plcourse.export.verify import Reference, verify
from plcourse.export.worker import Worker
from plcourse.runs.export_request import FORMATS, ExportRequest
from plcourse.training.exportable import is_replaced, standing_in

pytestmark = pytest.mark.slow  # the export that nearly all of them read takes a minute

FLOAT = [name for name in FORMATS if "int8" not in name]


def pixels(size: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


def weight_bytes(path: Path) -> int:
    return sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in onnx.load(path).graph.initializer)


class TestCertificate:
    def test_every_format_is_verified_at_every_batch_size(self, exported: Run) -> None:
        rows = certificate(exported)
        assert list(rows) == ["eager", *FORMATS]
        for name in FORMATS:
            row = rows[name]
            assert row["status"] == "verified", row["failed"]
            assert list(row["batches"]) == ["1", "3", "64"]
            assert row["coverage"] == {"expected": 300, "seen": 300, "twice": 0}
            assert row["raw_shapes"].keys() == {"8 x 8", "13 x 13", "8 x 25", "25 x 8", "2 x 3", "901 x 1203"}
            assert row["bytes"] == Artifacts(exported).path(name).stat().st_size  # no side file
            for batch in row["batches"].values():
                assert batch["worst"].startswith("digits/")
                assert 0 < batch["p50_ms"] <= batch["p99_ms"]
                assert batch["calls"] >= 20

    @pytest.mark.parametrize("name", FLOAT)
    def test_float_formats_score_exactly_as_the_model_did(self, exported: Run, name: str) -> None:
        row = certificate(exported)[name]
        trained = exported.eval("test")["metrics"]["test/accuracy"]
        assert row["metric"] == {"name": "test/accuracy", "trained": trained, "exported": trained, "drop": 0.0}
        assert all(batch["max_deviation"] < 1e-5 and batch["agreement"] == 1 for batch in row["batches"].values())

    def test_int8_is_smaller_and_within_its_tolerance(self, exported: Run) -> None:
        rows = certificate(exported)
        assert rows["onnx_int8"]["metric"]["drop"] <= 0.02
        graph = onnx.load(Artifacts(exported).path("onnx_int8")).graph
        assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in graph.node}
        made_by = {name: node.op_type for node in graph.node for name in node.output}
        first = next(i for i, node in enumerate(graph.node) if node.op_type == "Conv")  # behind the preprocessing
        sums = [{made_by[name] for name in node.input} for node in graph.node[first:] if node.op_type == "Add"]
        assert len(sums) >= 2
        assert all(each == {"DequantizeLinear"} for each in sums), "a float sum between two int8 convolutions"
        weights = {name: weight_bytes(Artifacts(exported).path(name)) for name in ("onnx", "onnx_int8")}
        assert weights["onnx_int8"] < 0.4 * weights["onnx"]

    def test_the_table_is_printed_and_says_what_is_deprecated(self, exported: Run) -> None:
        printed = (exported.path / "printed.txt").read_text()
        assert "TorchScript is deprecated" in printed
        assert "test/accuracy on 300 of 300" in printed
        assert printed.count("  verified\n") == len(FORMATS)


class TestFile:
    def test_two_independent_implementations_agree(self, exported: Run) -> None:
        for name in ("onnx", "onnx_int8"):
            path = Artifacts(exported).path(name)
            image = pixels((3, 1, 8, 8))
            engines: Any = onnxruntime.InferenceSession(path), ReferenceEvaluator(str(path))
            (fast,), (slow,) = (engine.run(None, {"image": image}) for engine in engines)
            assert np.abs(fast - slow).max() < (1e-5 if name == "onnx" else 0.05)

    @pytest.mark.parametrize("size", [(1, 8, 8), (5, 17, 9), (2, 4, 31)])
    def test_pixels_of_any_size_are_resized_as_files_are(self, exported: Run, size: tuple[int, ...]) -> None:
        image = pixels((size[0], 1, *size[1:]))
        small = [as_pixels(resized(as_image(each), (8, 8), "crop")) for each in torch.from_numpy(image)]
        answers = [open_exported(exported, name)[0]([image])[0] for name in FLOAT]
        for name, answer in zip(FLOAT, answers, strict=True):
            expected = open_exported(exported, name)[0]([torch.stack(small).numpy()])[0]
            np.testing.assert_allclose(answer, expected, atol=1e-6)
        assert all(np.abs(each - answers[0]).max() < 1e-5 for each in answers)
        np.testing.assert_allclose(answers[0].sum(1), 1, rtol=1e-5)
        assert np.abs(answers[0][0] - answers[0][-1]).max() > 0 or size[0] == 1

    def test_what_travels_in_the_metadata(self, exported: Run) -> None:
        model = onnx.load(Artifacts(exported).path("onnx"))
        texts = {entry.key: entry.value for entry in model.metadata_props}
        assert texts["class_names"] == ",".join("0123456789")
        assert texts["run"] == exported.name
        card = Card.of(json.loads(texts["plcourse"]))
        assert card.data["shape"] == [1, 8, 8]
        assert card.opset == 20 == next(entry.version for entry in model.opset_import if entry.domain == "")
        assert {"torch", "onnx", "onnxruntime", "plcourse"} <= card.versions.keys()
        dims = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
        assert dims == ["batch", 1, "height", "width"] == card.inputs[0].shape
        runner, same = open_exported(exported, "onnx")
        assert same == card
        assert runner([pixels((2, 1, 8, 8))])[0].shape == (2, 10)

    def test_pixels_come_back_exactly_from_normalised_images(self) -> None:
        data = ExportData("digits")
        data.setup("fit")
        state = data.state_dict()
        batch = next(iter(data.test_dataloader()))
        back = Pixels(state["mean"], state["std"], state["shape"]).back(batch["image"])
        index = [data.splits.source.ids.index(name) for name in batch["id"]]
        assert torch.equal(back, data.splits.source.read(np.array(index)))
        with pytest.raises(UserError, match="not pixels normalized"):
            Pixels(state["mean"], state["std"], state["shape"]).back(batch["image"] * 1.01)


class TestRefusals:
    def test_a_truncated_onnx_file(self, exported: Run, tmp_path: Path) -> None:
        whole = Artifacts(exported).path("onnx").read_bytes()
        for keep in (0, 100, len(whole) // 2, len(whole) - 1):
            (tmp_path / "cut.onnx").write_bytes(whole[:keep])
            with pytest.raises(UserError, match="truncated"):
                checked_onnx(tmp_path / "cut.onnx")

    @pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "link.bin", "absent.bin"])
    def test_data_outside_the_folder(self, tmp_path: Path, location: str) -> None:
        folder = tmp_path / "model"
        folder.mkdir()
        (tmp_path / "secret.bin").write_bytes(bytes(64))
        (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
        weight = onnx.numpy_helper.from_array(np.ones(4, np.float32), "weight")
        set_external_data(weight, location)
        weight.ClearField("raw_data")
        info = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4])
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["weight"], ["y"])], "g", [], [info], [weight]
        )
        (folder / "model.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
        with pytest.raises(UserError, match="missing" if location == "absent.bin" else "outside the model's folder"):
            checked_onnx(folder / "model.onnx")

    @pytest.mark.parametrize("name", ["torch_export", "torchscript_trace", "onnx"])
    def test_a_file_that_is_not_the_one_exported(self, exported: Run, name: str) -> None:
        path = Artifacts(exported).path(name)
        whole = path.read_bytes()
        try:
            path.write_bytes(whole + b"x")
            with pytest.raises(UserError, match=r"not the file that manifest\.json lists; it was not loaded"):
                open_exported(exported, name)
        finally:
            path.write_bytes(whole)

    def test_a_file_of_a_folder_that_has_no_manifest(self, exported: Run, tmp_path: Path) -> None:
        foreign = tmp_path / "foreign"
        (foreign / "export" / "torch_export").mkdir(parents=True)
        (foreign / "run.json").write_text("{}")
        (foreign / "export/torch_export/model.pt2").write_bytes(Artifacts(exported).path("torch_export").read_bytes())
        with pytest.raises(UserError, match="has no export 'torch_export'"):
            open_exported(Run.load(foreign), "torch_export")

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["export", "--run", "x", "--format", "onx"], "unknown format 'onx'.*did you mean 'onnx'"),
            (["export", "--format", "onnx", "-c", "export/classifier"], "needs trained weights"),
            (["export", "--batch_sizes", "0"], "integers, 1 or more"),
            (["export", "--opset", "9"], "18 to 23"),
            (["export", "--max_drop", "few"], "such as 0.005"),
            (["fit", "-c", "export/classifier", "--format", "onnx"], "--format goes with export"),
            (["fit", "-c", "export/classifier", "--then", "exprt"], "did you mean 'export'"),
        ],
    )
    def test_a_request_that_cannot_be_met(self, runs: Path, words: list[str], says: str) -> None:
        with pytest.raises(UserError, match=says):
            read_request(words[0], words[1:])


class TestFailedCheck:
    def test_it_is_named_and_ends_with_status_1(self, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """The other formats, which keep both branches or refuse, are written nevertheless."""
        model = ["--model.init_args.network", "export_modules.Unstable", "--trust", "export_modules"]
        data = ["--data.init_args.source", "digits", "--trainer.limit_train_batches", "1", "--trainer.max_epochs", "1"]
        main(["fit", "-c", "export/classifier", *model, *data])
        capsys.readouterr()
        with pytest.raises(SystemExit) as status:
            main(["export", "--run", "export/classifier", "--trust", "export_modules", "--format", "torchscript"])
        assert status.value.code == 1
        printed = capsys.readouterr()
        assert "exported, not verified" in printed.out
        assert "torchscript_trace is exported, not verified: batch size 1: max deviation" in printed.err
        manifest = Artifacts(Run.load("export/classifier")).manifest
        assert {name: entry["verified"] for name, entry in manifest.items()} == {
            "torchscript_trace": False,
            "torchscript_script": True,
        }
        with pytest.raises(SystemExit) as status:  # torch.export sees the branch and refuses to choose one
            main(["export", "--run", "export/classifier", "--trust", "export_modules", "--format", "torch_export"])
        assert status.value.code == 1
        assert "torch_export is not exported" in capsys.readouterr().err

    def test_a_metric_that_got_worse_fails(self, exported: Run) -> None:
        path, card = Artifacts(exported).check("onnx")
        image, request = pixels((8, 1, 8, 8)), ExportRequest()
        with Worker(exported, "onnx", 1) as worker:
            samples = Samples([str(i) for i in range(8)], [image], worker([image]))
            for metric, exported_score, failed in (
                (("test/accuracy", "max"), 0.894, True),
                (("test/accuracy", "max"), 0.896, False),
                (("test/accuracy", "max"), float("nan"), True),
                (("test/loss", "min"), 0.91, True),
                (("test/loss", "min"), 0.3, False),
            ):
                name, mode = metric
                reference, score = Reference(samples, {name: 0.9}, [name], mode), {name: exported_score}
                row = verify(worker, card, path, reference, lambda runner, s=score: s, request)
                assert (row["status"] == "exported, not verified") == failed
                assert [each.startswith(f"{name} is worse by") for each in row.get("failed", [])] == [True] * failed
            both = {"test/accuracy": 0.9, "test/foreground_iou": 0.8}
            worse = {**both, "test/foreground_iou": 0.7}
            row = verify(worker, card, path, Reference(samples, both, list(both)), lambda runner: worse, request)
            assert row.get("metric", {}).get("drop") == 0
            assert row.get("failed") == ["test/foreground_iou is worse by 0.1, which exceeds --max_drop 0.005"]
            samples.outputs[0] = samples.outputs[0] + 0.01
            samples.outputs[0][5] += 1
            row = verify(worker, card, path, Reference(samples, {}), lambda runner: {}, request)
            assert "max deviation 1 (sample 5) exceeds the tolerance" in row.get("failed", [""])[0]

    def test_a_score_that_is_still_the_modules_own_is_none(self) -> None:
        """A test step that bypasses forward would verify the trained model against itself."""
        module = TextClassifier()
        with standing_in(module, lambda words: torch.zeros(len(words), 2)):
            module.test_step({"words": torch.zeros(3, 4, dtype=torch.int64), "label": torch.zeros(3).long()}, 0)
        assert float(module.test_scores.loss.compute()) == pytest.approx(np.log(2))  # of scores that are all 0
        with pytest.raises(UserError, match="TextClassifier does not call its forward"), standing_in(module, print):
            module.convolution(torch.zeros(1, 8, 5))
        assert not is_replaced(module)


class TestAsAModel:
    @pytest.mark.parametrize("name", ["onnx", "torch_export"])
    def test_test_and_predict_give_what_the_model_gives(self, exported: Run, runs: Path, name: str) -> None:
        data = ["--data.init_args.source=digits", "--data.init_args.test_size=300"]
        model = [f"--model.init_args.run={exported.path}", f"--model.init_args.format={name}"]
        main(["test", "-c", "export/test_exported", *model, *data])
        main(["predict", "--run", "export/test_exported", *model, *data])
        main(["predict", "--run", str(exported.path)])
        run = Run.load("export/test_exported")
        ours, theirs = run.eval("test"), exported.eval("test")
        assert ours["coverage"] == theirs["coverage"]
        assert ours["metrics"] == pytest.approx(theirs["metrics"], rel=1e-4)
        assert ours["metrics"]["test/accuracy"] == theirs["metrics"]["test/accuracy"]
        own, other = (pd.read_parquet(each.predictions[0]) for each in (run, exported))
        assert list(own.columns) == list(other.columns)
        assert (own[["id", "label", "label_name"]] == other[["id", "label", "label_name"]]).to_numpy().all()
        probability, expected = (np.stack(each["probability"].to_list()) for each in (own, other))
        np.testing.assert_allclose(probability, expected, atol=1e-5)

    def test_it_takes_the_training_data_of_the_file_not_of_the_data_module(self, exported: Run, runs: Path) -> None:
        """Another split would be normalized differently; the file's mean and std are used."""
        words = [f"--model.init_args.run={exported.path}", "--data.init_args.source=digits"]
        other = [*words, "--data.init_args.split_seed=5"]
        with pytest.raises(SystemExit):  # its test part contains samples that the exported model was trained on
            main(["test", "-c", "export/test_exported", *other])
        main(["test", "-c", "export/test_exported", *other, "--trainer.allow_training_samples=true"])
        assert Run.load("export/test_exported").eval("test")["metrics"]["test/accuracy"] > 0.5
        with pytest.raises(SystemExit):
            main(["test", "-c", "export/test_exported", words[0], "--data.init_args.source=mnist5k"])


class TestLatency:
    def test_it_recommends_per_batch_size_among_the_verified(
        self, exported: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        latency(["--run", str(exported.path), "--rounds", "1", "--batch_sizes", "1,8"])
        written = json.loads((exported.path / "export" / "latency.json").read_text())
        assert list(written["batches"]) == ["1", "8"]
        for found in written["batches"].values():
            assert set(found["formats"]) == {"eager", *FORMATS}
            best = found["formats"][found["recommended"]]
            assert best["speedup"] == max(row["speedup"] for row in found["formats"].values()) >= 1
        assert "is recommended" in capsys.readouterr().out

    def test_formats_may_be_chosen_and_flags_of_an_export_are_refused(
        self, exported: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        latency(["--run", str(exported.path), "--rounds", "1", "--batch_sizes", "2", "--format", "onnx"])
        (found,) = json.loads((exported.path / "export" / "latency.json").read_text())["batches"].values()
        assert set(found["formats"]) == {"eager", "onnx"}
        with pytest.raises(SystemExit) as ended:
            main(["benchmark", "latency", "--run", str(exported.path), "--opset", "20"])
        assert ended.value.code == 2
        assert "--opset goes with export" in capsys.readouterr().err
