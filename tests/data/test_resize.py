"""One rule for images of any size: the same pixels from files and in a graph, the same in every data module."""

from pathlib import Path
from typing import get_args

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torch.nn import functional

from plcourse.data import ImageSplits, MaskSplits, Resize, open_files, open_source
from plcourse.data.resize import Resizer, Unresizer, as_image, as_pixels, resized, size_of, window_of
from plcourse.errors import UserError
from plcourse.evaluation.data import EvaluationData
from plcourse.evaluation.members import check_images, data_state

RULES = get_args(Resize)
SIZES = ((28, 28), (48, 96), (17, 31), (64, 20))
side = st.integers(1, 220)


def noise(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, size, np.uint8))


@given(height=side, width=side, channels=st.sampled_from([1, 3]), size=st.sampled_from(SIZES), seed=st.integers(0, 99))
def test_a_graph_gives_the_pixels_of_a_file_bit_for_bit(
    height: int, width: int, channels: int, size: tuple[int, int], seed: int
) -> None:
    pixels_CHW = noise(channels, height, width, seed=seed)
    for rule in RULES:
        of_file = as_pixels(resized(as_image(pixels_CHW), size, rule))
        assert torch.equal(Resizer(size, rule)(pixels_CHW[None])[0], of_file.float()), rule


@pytest.mark.medium
@pytest.mark.parametrize("rule", RULES)
def test_every_exporter_writes_it_exactly(rule: Resize, tmp_path: Path) -> None:
    """Where halves are rounded, a constant that an exporter holds in float32 would show."""
    resizer, example = Resizer((28, 40), rule).eval(), noise(2, 1, 28, 40)
    free = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    torch.onnx.export(
        resizer, (example,), tmp_path / "resizer.onnx", dynamo=True, dynamic_shapes=(free,), verbose=False
    )
    session = onnxruntime.InferenceSession(tmp_path / "resizer.onnx")
    exported = torch.export.export(resizer, (example,), dynamic_shapes=(free,)).module()
    for height, width in [(45, 45), (28, 121), (1, 1), (2, 3), (301, 405), *((n, 3 * n) for n in range(9, 30))]:
        pixels = noise(1, 1, height, width)
        of_file = as_pixels(resized(as_image(pixels[0]), (28, 40), rule)).numpy()
        (found,) = session.run(None, {session.get_inputs()[0].name: pixels.numpy()})
        np.testing.assert_array_equal(np.asarray(found)[0], of_file)
        np.testing.assert_array_equal(exported(pixels)[0], of_file)


@pytest.mark.parametrize("rule", RULES)
def test_huge_and_degenerate_inputs(rule: Resize) -> None:
    for shape in ((1, 1, 1), (3, 1, 2000), (1, 2000, 1), (3, 700, 1100)):
        pixels_CHW = noise(*shape)
        of_file = as_pixels(resized(as_image(pixels_CHW), (48, 96), rule))
        assert torch.equal(Resizer((48, 96), rule)(pixels_CHW[None])[0], of_file.float()), shape


def test_what_each_rule_keeps() -> None:
    wide = torch.zeros(1, 40, 120, dtype=torch.uint8)
    wide[:, :, :40], wide[:, :, 40:80] = 60, 200
    image = as_image(wide)
    crop, stretch, pad = (np.asarray(resized(image, (40, 40), rule)) for rule in RULES)
    assert (crop[:, 2:-2] == 200).all()
    assert stretch[20, [5, 20, 35]].tolist() == [60, 200, 0]
    assert (pad[:13] == 0).all()
    assert pad[20, [5, 20]].tolist() == [60, 200]
    assert window_of(40, 120, (40, 40), "pad") == (13, 0, 13, 40)
    assert window_of(120, 40, (40, 40), "pad") == (0, 13, 40, 13)
    close = np.asarray(ImageOps.fit(image, (40, 40), Image.Resampling.BILINEAR)).astype(int) - crop
    assert np.abs(close).max() <= 1  # what Pillow calls fit, but for the order of its two passes


@given(height=side, width=side, size=st.sampled_from(SIZES), rule=st.sampled_from(["stretch", "pad"]))
def test_scores_come_back_in_the_inputs_size(height: int, width: int, size: tuple[int, int], rule: Resize) -> None:
    scores = torch.from_numpy(np.random.default_rng(height).normal(size=(2, 3, *size))).float()
    top, left, rows, columns = window_of(height, width, size, rule)
    inside = scores[:, :, top : top + rows, left : left + columns]
    expected = functional.interpolate(inside, size=(height, width), mode="bilinear")
    found = Unresizer(rule)(scores, torch.zeros(2, 1, height, width, dtype=torch.uint8))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_sizes_and_rules_that_there_are_not() -> None:
    assert size_of(64) == (64, 64)
    assert size_of([48, 96]) == (48, 96)
    for wrong in (0, [0, 5], [1, 2, 3]):
        with pytest.raises(ValueError, match="give 1 pixel or more, or"):
            size_of(wrong)
    with pytest.raises(ValueError, match="resize='squash': give 'crop', 'stretch', 'pad'"):
        ImageSplits("digits", resize="squash")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="resize='crop' cuts off the margins, but a mask must cover the whole input"):
        MaskSplits("digits_on_photos", resize="crop")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes with a wide, a tall and a square photo each."""
    for i, shape in enumerate([(20, 50), (50, 20), (30, 30)]):
        for label in ("a", "b"):
            (tmp_path / "photos" / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise(*shape, 3, seed=i).numpy()).save(tmp_path / "photos" / label / f"{i}.png")
    return tmp_path / "photos"


@pytest.mark.parametrize("rule", RULES)
def test_a_folder_is_read_by_the_rule_and_keeps_what_was_there(photos: Path, rule: Resize) -> None:
    source = open_source("image_folder", str(photos), [16, 24], resize=rule)  # pyright: ignore[reportArgumentType]
    assert source.shape == (3, 16, 24)
    for i, name in enumerate(source.ids):
        original = Image.open(photos / name)
        assert torch.equal(source.read_raw(i), as_pixels(original))
        assert torch.equal(source.read(np.array([i]))[0], as_pixels(resized(original, (16, 24), rule)))


def test_arrays_are_resized_as_files_are(tmp_path: Path) -> None:
    for rule in RULES:
        source = open_source("digits", image_size=(12, 20), resize=rule)
        assert source.read_raw(5).shape == (1, 8, 8)
        as_image(source.read_raw(5)).save(tmp_path / "five.png")
        of_file = open_files([str(tmp_path / "five.png")], (1, 12, 20), resize=rule)
        assert torch.equal(source.read(np.array([5])), of_file.read(np.array([0])))


@pytest.mark.parametrize("rule", RULES)
def test_new_files_are_read_by_the_rule_of_the_checkpoint(photos: Path, rule: Resize) -> None:
    trained = ImageSplits("image_folder", str(photos), (16, 24), val_size=0, test_size=0, resize=rule)
    trained.open()
    state = trained.state_dict()
    assert state["resize"] == rule
    elsewhere = ImageSplits("image_folder", "gone")
    elsewhere.load_state_dict(state)
    expected = {name: image for batch in [trained_batch(trained)] for name, image in batch.items()}
    for batch in elsewhere.files_loader(None, [str(photos)], 4):
        for name, image in zip(batch["id"], batch["image"], strict=True):
            assert torch.equal(image, expected[name.removeprefix(f"{photos}/")])
    streamed = EvaluationData("image_folder", "gone", paths=[str(photos)])
    streamed.load_state_dict(state)
    for batch in streamed.predict_dataloader():
        for name, image in zip(batch["id"], batch["image"], strict=True):
            torch.testing.assert_close(image, expected[name.removeprefix(f"{photos}/")])


def trained_batch(parts: ImageSplits) -> dict[str, torch.Tensor]:
    (batch,) = parts.eval_loader(None, "train", 100)
    return dict(zip(batch["id"], batch["image"], strict=True))


def test_a_checkpoint_of_another_rule_is_refused(photos: Path) -> None:
    state = ImageSplits("image_folder", str(photos), 16, val_size=0, test_size=0, resize="pad").state_dict()
    other = ImageSplits("image_folder", str(photos), 16, val_size=0, test_size=0)
    other.open()
    with pytest.raises(UserError, match="was trained on images resized by pad, but image_folder has crop"):
        other.load_state_dict(state)
    other.load_state_dict({key: value for key, value in state.items() if key != "resize"})  # of an earlier version


def test_a_member_of_an_ensemble_saw_its_images_by_the_same_rule(photos: Path) -> None:
    state = ImageSplits("image_folder", str(photos), 16, val_size=0, test_size=0).state_dict()
    own = data_state(state)
    assert own is not None
    for changed in ({"resize": "pad"}, {"shape": [3, 16, 24]}):
        other = data_state({**state, **changed})
        assert other is not None
        with pytest.raises(UserError, match=f"ensemble: a.ckpt was trained on images with {next(iter(changed))}"):
            check_images("a.ckpt", own, other)
    earlier = data_state({key: value for key, value in state.items() if key != "resize"})
    assert earlier is not None
    check_images("a.ckpt", own, earlier)
