"""What an image file shows: turned by its orientation, over white, its first frame, at its data's own depth."""

import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from image_files import exif
from plcourse.data import FolderSource, ImageSplits, open_files
from plcourse.data.decode import inspect
from plcourse.data.image_folder import header_notes
from plcourse.errors import UserError

# the pixels [H, W] that each EXIF orientation shows of the stored ones, written with NumPy
SHOWN = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def shown(path: Path, channels: int = 3, **options: Any) -> np.ndarray:
    """The pixels of a file as a source reads it in its own size, [H, W] or [H, W, 3]."""
    height, width = inspect(path).size
    source = open_files([str(path)], (channels, height, width), **options)
    assert source.sizes.tolist() == [[height, width]]
    return source.read(np.array([0]))[0].permute(1, 2, 0).squeeze(2 if channels == 1 else ()).numpy()


def noise(*shape: int, top: int = 256, kind: type[np.unsignedinteger] = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, top, shape).astype(kind)


class TestOrientation:
    @pytest.mark.parametrize("ending", ["png", "tif", "webp", "jpg", "avif"])
    @pytest.mark.parametrize("orientation", SHOWN)
    def test_size_and_pixels_are_those_that_a_viewer_shows(self, tmp_path: Path, ending: str, orientation: int) -> None:
        stored, path = np.zeros((16, 24, 3), np.uint8), tmp_path / f"a.{ending}"
        stored[:8, :8], stored[:8, 16:] = 250, 120  # three corners that differ
        Image.fromarray(stored).save(path, exif=exif(orientation), lossless=ending == "webp", quality=95)
        expected = SHOWN[orientation](stored)
        assert inspect(path).size == expected.shape[:2]
        assert inspect(path).orientation == orientation
        assert np.abs(shown(path).astype(int) - expected).mean() < (0.01 if ending in ("png", "tif", "webp") else 4)

    @pytest.mark.parametrize("deep", [False, True], ids=["8_bits", "16_bits"])
    def test_a_png_may_hold_it_behind_its_pixels(self, tmp_path: Path, deep: bool) -> None:
        stored, path = noise(8, 12, top=65536, kind=np.uint16) if deep else noise(8, 12), tmp_path / "a.png"
        Image.fromarray(stored).save(path)
        body = b"eXIf" + exif(6).tobytes().removeprefix(b"Exif\0\0")
        chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
        path.write_bytes(path.read_bytes()[:-12] + chunk + path.read_bytes()[-12:])
        np.testing.assert_array_equal(shown(path, 1, depth=16), np.rot90(stored >> 8 if deep else stored, -1))


class TestDepth:
    """16 bits are scaled by the range that the data use."""

    @pytest.mark.parametrize("name", ["gray.png", "gray.tif", "gray.pgm", "color.png", "color.tif", "color.ppm"])
    @pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
    def test_the_smallest_depth_that_holds_all_files_fills_8_bits(self, tmp_path: Path, name: str, bits: int) -> None:
        color = name.startswith("color")
        bright = noise(6, 5, *([3] if color else []), top=2**bits, kind=np.uint16)
        bright[0, 0] = 2**bits - 1
        for folder, values in (("a", bright), ("b", bright // 4)):
            (tmp_path / folder).mkdir()
            cv2.imwrite(str(tmp_path / folder / name), values[..., ::-1] if color else values)  # it takes BGR
        source = FolderSource.of_classes(str(tmp_path))
        assert source.depth == bits
        read = source.read(np.arange(2)).permute(0, 2, 3, 1).numpy()
        read = read if color else read[..., 0]
        np.testing.assert_array_equal(read[0], bright >> (bits - 8))
        np.testing.assert_array_equal(read[1], (bright // 4) >> (bits - 8))

    def test_new_files_are_read_as_those_of_the_training_were(self, tmp_path: Path) -> None:
        for folder, top in (("a", 4095), ("b", 2000)):
            (tmp_path / folder).mkdir()
            for i in range(4):
                Image.fromarray(np.full((6, 6), top - i, np.uint16)).save(tmp_path / folder / f"{i}.png")
        trained = ImageSplits("image_folder", str(tmp_path), val_size=0, test_size=0)
        state = trained.state_dict()
        assert state["depth"] == 12
        new = ImageSplits("image_folder", "not there")
        new.load_state_dict(state)
        dim, deep = tmp_path / "dim.png", tmp_path / "deep.png"
        Image.fromarray(np.full((6, 6), 800, np.uint16)).save(dim)
        (batch,) = new.files_loader(None, [str(dim)], 8)
        pixel = float(batch["image"][0, 0, 0, 0]) * state["std"][0] + state["mean"][0]
        assert pixel * 255 == pytest.approx(800 >> 4, abs=1e-3)
        Image.fromarray(np.full((6, 6), 5000, np.uint16)).save(deep)
        with pytest.raises(UserError, match=r"deep\.png': its values reach 5,000, more than the 12 bits of the images"):
            new.files_loader(None, [str(deep)], 8)

    def test_a_model_of_8_bits_takes_16_where_all_are_used_and_refuses_what_leaves_it_open(
        self, tmp_path: Path
    ) -> None:
        full, part = tmp_path / "full.png", tmp_path / "part.png"
        values = noise(6, 6, top=65536, kind=np.uint16)
        Image.fromarray(values).save(full)
        Image.fromarray(values >> 4).save(part)
        np.testing.assert_array_equal(shown(full, 1, depth=0), values >> 8)
        with pytest.raises(UserError, match=r"part\.png': it has 16 bits, of which its values fill no more than 12"):
            open_files([str(part)], (1, 6, 6), depth=0)
        skipped = open_files([str(full), str(part)], (1, 6, 6), on_error="skip", depth=0)
        assert skipped.ids == [str(full)]
        assert [path for path, _ in skipped.rejected] == [str(part)]


def test_what_is_transparent_shows_white_and_is_counted(tmp_path: Path) -> None:
    color, alpha = np.full((4, 4, 3), 40, np.uint8), np.full((4, 4), 255, np.uint8)
    alpha[0], alpha[1] = 0, 128
    expected = np.full((4, 4), 40)
    expected[0], expected[1] = 255, round(40 * 128 / 255 + 255 * 127 / 255)
    (tmp_path / "a").mkdir()
    Image.fromarray(np.dstack([color, alpha])).save(tmp_path / "a/rgba.png")
    Image.fromarray(np.dstack([color[..., 0], alpha])).save(tmp_path / "a/la.png")
    Image.fromarray(np.dstack([color, alpha])).save(tmp_path / "a/rgba.tga")
    Image.fromarray(color).save(tmp_path / "a/plain.png")
    palette = Image.frombytes("P", (4, 4), bytes([0] * 4 + [1] * 12))
    palette.putpalette([9, 9, 9, 40, 40, 40])
    palette.save(tmp_path / "a/palette.gif", transparency=0)
    source = FolderSource.of_classes(str(tmp_path))
    read = source.read(np.arange(5)).numpy()
    for name in ("rgba.png", "la.png", "rgba.tga"):
        np.testing.assert_allclose(read[source.ids.index(f"a/{name}")][0], expected, atol=1)
    assert read[source.ids.index("a/palette.gif")][:, 0].min() == 255
    assert read[source.ids.index("a/plain.png")].max() == 40
    told = "4 of 5 images have an alpha channel; transparent pixels become white"
    assert source.notes == [f"image_folder: {told}"]
    assert header_notes("paths", list(map(str, source.paths))) == [f"paths: {told}"]


def test_the_first_frame_or_page_is_read_and_the_files_are_counted(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((4, 4), value, np.uint8)) for value in (30, 90, 200)]
    for ending in ("gif", "tif", "png", "webp"):
        options = {"save_all": True, "append_images": frames[1:], "lossless": ending == "webp"}
        frames[0].convert("RGB").save(tmp_path / f"a.{ending}", **options)
    source = open_files([str(tmp_path)], (1, 4, 4))
    assert source.read(np.arange(4)).flatten(1).unique(dim=1).tolist() == [[30]] * 4
    assert source.notes == ["files: 4 of 4 images have several frames or pages; the first is read"]
    assert header_notes("paths", source.ids) == ["paths: 4 of 4 images have several frames or pages; the first is read"]


def test_a_checkpoint_that_does_not_know_its_depth_read_16_bits(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    values = noise(4, 4, top=4096, kind=np.uint16)
    Image.fromarray(values).save(tmp_path / "a/x.png")
    parts = ImageSplits("image_folder", str(tmp_path), val_size=0, test_size=0)
    state = {key: value for key, value in parts.state_dict().items() if key != "depth"}
    parts.source.read(np.arange(1))
    parts.load_state_dict(state)
    assert torch.equal(parts.source.read(np.arange(1))[0, 0], torch.from_numpy((values >> 8).astype(np.uint8)))


@pytest.mark.parametrize("ending", ["avif", "tga", "jp2", "qoi", "dds", "png"])
def test_a_torn_file_of_any_kind_is_named(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "png":
        cv2.imwrite(str(path), noise(40, 40, 3, top=4096, kind=np.uint16))
    else:
        Image.fromarray(noise(40, 40, 3)).save(path)
    content = path.read_bytes()
    for cut in (len(content) // 4, len(content) // 2):
        path.write_bytes(content[:cut])
        facts = inspect(path, decode=True)
        assert facts.error
        assert "\n" not in facts.error
        with pytest.raises(UserError, match=rf"a\.{ending}'"):
            open_files([str(path)], (3, 40, 40), depth=16).read(np.array([0]))
