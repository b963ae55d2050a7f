"""Other modules than the classifier: several outputs, text of any length, a generator, and what cannot be exported."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from export_modules import Generator, RecurrentClassifier, TextClassifier, Texts, TwoHeads, certificate
from plcourse import Run, Trainer
from plcourse.errors import RunFailed, UserError
from plcourse.export.card import Port
from plcourse.export.certificate import Comparison
from plcourse.export.graph import Bridge, Program
from plcourse.export.runners import open_exported
from plcourse.export.samples import Samples
from plcourse.export.verb import Job, export
from plcourse.export.verify import compare
from plcourse.runs.export_request import ExportRequest


def pixels(size: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8)


class TestSeveralOutputs:
    """A classifier with a mask: a deviation of the smaller output must not hide behind the larger output."""

    PORTS = [Port("class_scores", "float32", [], 1), Port("mask_scores", "float32", [], 1)]

    def found(self, change: Callable[[np.ndarray, np.ndarray], Any]) -> Comparison:
        draw = np.random.default_rng(0)
        scores, masks = draw.normal(size=(6, 3)) * 100, draw.normal(size=(6, 2, 4, 4))
        samples = Samples([f"s/{i}" for i in range(6)], [np.arange(6)], [scores, masks])

        def runner(inputs: Any) -> list[np.ndarray]:
            own = [scores[inputs[0]].copy(), masks[inputs[0]].copy()]
            for position, index in enumerate(inputs[0]):
                if index == 4:
                    change(own[0][position], own[1][position])
            return own

        return compare(runner, [samples], 4, self.PORTS)

    def test_preprocessing_and_softmax_go_around_all_of_them(self) -> None:
        torch.manual_seed(0)
        module, state = TwoHeads().eval(), {"mean": [0.2], "std": [0.3], "shape": [1, 6, 6]}
        program = Program(module, module, state, preprocess=True, probabilities=True)
        image = torch.from_numpy(pixels((4, 1, 6, 6)))
        batch = {"image": (image / 255 - 0.2) / 0.3}
        (found,) = program.inputs(batch)
        assert torch.equal(found, image)
        for found, expected in zip(program.eager([image.numpy()]), program.reference(batch), strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-6)
            np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
        card = program.card("onnx", [image], {}, {})
        assert [port.name for port in card.outputs] == ["class_probabilities", "mask_probabilities"]
        back = Bridge(card).outputs(program.eager([image.numpy()]))
        assert isinstance(back, tuple)
        for scores, own in zip(back, module(batch["image"]), strict=True):
            torch.testing.assert_close(scores.softmax(1), own.softmax(1))

    def test_only_images_have_pixels(self) -> None:
        module, state = TwoHeads().eval(), {"mean": [0.2], "std": [0.3], "shape": [1, 6, 6]}
        with pytest.raises(UserError, match="--preprocess is for images and tables: TwoHeads takes 'image'"):
            Program(module, module, state, preprocess=True).inputs({"image": torch.zeros(4, 7)})

    def test_each_is_held_against_its_own_scale(self) -> None:
        def change(scores: np.ndarray, masks: np.ndarray) -> None:
            scores += 1
            masks[:, 0, 0] = masks[::-1, 0, 0]

        found = self.found(change)
        mask = found["outputs"]["mask_scores"]
        assert found["max_deviation"] == mask["max_deviation"] < 5 < found["outputs"]["class_scores"]["scale"]
        assert found["worst"] == "s/4"
        assert found["outputs"]["class_scores"]["agreement"] == 1
        assert found["agreement"] == mask["agreement"] == 1 - 1 / (8 * 16)  # one pixel; two samples come twice

    def test_a_nan_fails(self) -> None:
        def change(scores: np.ndarray, masks: np.ndarray) -> None:
            scores[1] = np.nan

        found = self.found(change)
        assert np.isnan(found["outputs"]["class_scores"]["max_deviation"])
        assert found["outputs"]["class_scores"]["worst"] == "s/4"
        assert np.isnan(found["max_deviation"])


@pytest.mark.slow
class TestOtherModules:
    """Text of any length, several inputs, and outputs without a decision."""

    def exported(self, module: pl.LightningModule, tmp_path: Path, *formats: str) -> Run:
        torch.manual_seed(1)
        run = Run.create("export/own", tmp_path, {})
        trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
        export(Job(run, trainer, module, Texts(), None, ExportRequest(formats=formats, batch_sizes=(1, 5))))
        return run

    def test_text_of_another_length_and_batch_is_read(self, tmp_path: Path) -> None:
        module = TextClassifier().eval()
        run = self.exported(module, tmp_path, "onnx", "onnx_int8_dynamic", "torch_export", "torchscript_script")
        for row in list(certificate(run).values())[1:]:
            assert row["other_size"]["max_deviation"] < 0.1
        words = torch.randint(50, (7, 31))
        expected = module(words).detach().numpy()
        for name in ("onnx", "torch_export"):
            (found,) = open_exported(run, name)[0]([words.numpy()])
            np.testing.assert_allclose(found, expected, atol=1e-5)

    def test_a_length_is_free_in_a_verified_file_or_the_format_fails_by_name(self, tmp_path: Path) -> None:
        """Whether torch's exporters keep an LSTM's length free depends on what ran before in the process."""
        module, names = RecurrentClassifier().eval(), ("onnx", "torchscript_trace", "torch_export")
        with contextlib.suppress(RunFailed):
            self.exported(module, tmp_path, *names)
        run = Run.load(next((tmp_path / "export" / "own").iterdir()))
        rows, words = certificate(run), torch.randint(50, (7, 31))
        assert rows["torchscript_trace"]["status"] == "verified"
        for name in names:
            if rows[name]["status"] == "verified":
                (found,) = open_exported(run, name)[0]([words.numpy()])
                np.testing.assert_allclose(found, module(words).detach().numpy(), atol=1e-5)
            else:
                assert "length" in rows[name]["failed"][0]

    def test_a_generator_has_several_inputs_and_named_outputs(self, tmp_path: Path) -> None:
        run = self.exported(Generator(), tmp_path, "onnx", "torch_export")
        runner, card = open_exported(run, "onnx")
        assert [port.name for port in card.outputs] == ["image", "brightness"]
        assert card.structure == "dict"
        image, brightness = runner([np.zeros((3, 8), np.float32), np.arange(3)])
        np.testing.assert_allclose(image.mean(axis=(1, 2, 3)), brightness, atol=1e-6)
        assert certificate(run)["onnx"]["batches"]["5"]["agreement"] is None
        assert "metric" not in certificate(run)["onnx"]

    def test_a_request_that_does_not_fit_the_module_is_refused(self, tmp_path: Path) -> None:
        run = Run.create("export/own", tmp_path, {})
        trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
        with pytest.raises(UserError, match="a model of one input"):
            export(Job(run, trainer, Generator(), Texts(), None, ExportRequest(preprocess=True)))
        with pytest.raises(UserError, match="no mean, std"):
            export(Job(run, trainer, TextClassifier(), Texts(), None, ExportRequest(preprocess=True)))
