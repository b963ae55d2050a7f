"""Mask folders as people have them: rotated photos, parts, other endings, smoothed masks."""

import csv
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from image_files import exif
from plcourse.data import open_masks, split
from plcourse.data.paired_files import PairedFiles
from plcourse.errors import UserError

TURN = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_270, 2: Image.Transpose.FLIP_LEFT_RIGHT}


def label(root: Path, names: Sequence[str], where: str = "labels.csv") -> None:
    with (root / where).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "label"), *((name, "ab"[i % 2]) for i, name in enumerate(names))])


def photo_and_mask(
    root: Path,
    name: str,
    size: tuple[int, int] = (16, 24),
    orientation: int = 1,
    mask: str = "stored",
    tag: int | None = None,
) -> None:
    """A dark photo with a bright corner, which is the object of its mask."""
    for folder in ("images", "masks"):
        (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
    stored = np.zeros(size, np.uint8)
    stored[:4, :6] = 1
    Image.fromarray(stored * 200 + len(name)).convert("RGB").save(root / "images" / name, exif=exif(orientation))
    image = Image.fromarray(stored)
    if mask == "shown" and orientation in TURN:
        image = image.transpose(TURN[orientation])
    path = root / "masks" / Path(name).with_suffix(".png")
    image.save(path, exif=b"" if tag is None else exif(tag))


def opened(root: Path, image_size: int | None = None) -> PairedFiles:
    source = open_masks("mask_folder", str(root), image_size)
    assert isinstance(source, PairedFiles)
    return source


def lies_on_its_object(source: PairedFiles) -> list[bool]:
    """For each sample, whether the mask is where the image is bright."""
    rows = np.arange(len(source.ids))
    bright = source.read(rows)[:, 0] > 128
    return [bool((b == (m == 1)).all()) for b, m in zip(bright, source.read_masks(rows), strict=True)]


def raw_masks_fit(source: PairedFiles) -> bool:
    """The same of all masks before they are resized."""
    rows = range(len(source.ids))
    return all(bool(((source.read_raw(i)[0] > 128) == (source.read_raw_mask(i) == 1)).all()) for i in rows)


class TestRotatedPhotos:
    @pytest.mark.parametrize("ending", ["png", "tif", "webp"])
    @pytest.mark.parametrize("mask", ["shown", "stored"])
    def test_a_mask_lies_on_its_photo_whether_it_was_drawn_on_the_shown_or_the_stored_pixels(
        self, tmp_path: Path, ending: str, mask: str
    ) -> None:
        for i in range(4):
            photo_and_mask(tmp_path, f"{i}.{ending}", orientation=6, mask=mask)
        photo_and_mask(tmp_path, f"4.{ending}")
        label(tmp_path, [f"{i}.{ending}" for i in range(5)])
        source = opened(tmp_path, image_size=24)
        assert source.sizes.tolist() == [[24, 16]] * 4 + [[16, 24]]
        assert source.read_raw(0).shape == (3, 24, 16)
        assert raw_masks_fit(source)
        told = [note for note in source.notes if "orientation" in note]
        assert len(told) == (mask == "stored")
        assert all("4 masks have the size in which their images are stored, and are turned" in note for note in told)

    @pytest.mark.parametrize("orientation", [2, 3, 6])
    def test_where_both_readings_are_possible_the_mask_is_as_shown_and_that_is_said(
        self, tmp_path: Path, orientation: int
    ) -> None:
        for name, mask in (("a.png", "shown"), ("b.png", "stored")):
            photo_and_mask(tmp_path, name, (16, 16), orientation, mask)
        label(tmp_path, ["a.png", "b.png"])
        source = opened(tmp_path)
        assert lies_on_its_object(source) == [True, False]
        [note] = source.notes
        assert "2 images have an EXIF orientation and a mask that fits them turned and unturned" in note
        assert "taken to lie on the images as shown" in note

    def test_the_masks_own_orientation_decides_and_then_the_other_masks(self, tmp_path: Path) -> None:
        photo_and_mask(tmp_path, "a.png", (16, 16), 3, "stored", tag=3)
        photo_and_mask(tmp_path, "b.png", (16, 16), 3, "shown", tag=1)
        photo_and_mask(tmp_path, "c.png", (16, 16), 3, "stored")
        photo_and_mask(tmp_path, "d.png", (16, 24), 6, "stored")
        label(tmp_path, ["a.png", "b.png", "c.png", "d.png"])
        source = opened(tmp_path, image_size=24)
        assert raw_masks_fit(source)
        assert any(
            "1 images have an EXIF orientation" in note and "as the other masks are" in note for note in source.notes
        )

    def test_a_mask_of_neither_size_is_refused_with_the_orientation(self, tmp_path: Path) -> None:
        photo_and_mask(tmp_path, "a.png", orientation=6)
        photo_and_mask(tmp_path, "b.png")
        Image.new("L", (10, 10)).save(tmp_path / "masks/a.png")
        label(tmp_path, ["a.png", "b.png"])
        with pytest.raises(UserError, match=r"a.png' is wrong: it is 10 x 10 .* 24 x 16 as shown, turned by its EXIF"):
            open_masks("mask_folder", str(tmp_path))


class TestParts:
    def test_parts_may_hold_images_masks_and_labels_each(self, tmp_path: Path) -> None:
        for part, names in (("Train", "abcd"), ("Testing", "ef")):
            for name in names:
                photo_and_mask(tmp_path / part, f"{name}.png", (8, 8 + ord(name)))
            label(tmp_path / part, [f"{name}.png" for name in names], "Labels.csv")
        (tmp_path / "Testing/Labels.csv").write_text("file,label\ne.png,a\nf.png,a\n")  # one of the two classes
        source = open_masks("mask_folder", str(tmp_path))
        assert source.ids == [f"Testing/{name}.png" for name in "ef"] + [f"Train/{name}.png" for name in "abcd"]
        parts = split(source, 0, 3)
        assert {part: [source.ids[i] for i in rows] for part, rows in parts.items()} == {
            "train": source.ids[2:],
            "val": [],
            "test": source.ids[:2],
        }
        (tmp_path / "unlabeled").mkdir()
        with pytest.raises(UserError, match="'unlabeled' beside Train, Testing in"):
            open_masks("mask_folder", str(tmp_path))

    def test_parts_may_be_folders_within_images_and_masks(self, tmp_path: Path) -> None:
        names = ["train/a.png", "train/b.png", "validation/c.png", "test/d.png"]
        for i, name in enumerate(names):
            photo_and_mask(tmp_path, name, (8, 20 + i))
        (tmp_path / "masks/validation").rename(tmp_path / "masks/Val")
        label(tmp_path, names)
        source = open_masks("mask_folder", str(tmp_path))
        assert source.parts is not None
        found = {part: [source.ids[i] for i in rows] for part, rows in source.parts.items()}
        assert found == {"train": names[:2], "val": names[2:3], "test": names[3:]}
        photo_and_mask(tmp_path, "more/x.png")
        label(tmp_path, [*names, "more/x.png"])
        with pytest.raises(UserError, match=r"the folder 'more' in .* belongs to none of the parts"):
            open_masks("mask_folder", str(tmp_path))


class TestNames:
    def test_images_masks_and_labels_are_matched_in_any_unicode_form(self, tmp_path: Path) -> None:
        for name in ("école.png", "b.png"):
            photo_and_mask(tmp_path, unicodedata.normalize("NFD", name))
        (tmp_path / "masks" / unicodedata.normalize("NFD", "école.png")).rename(tmp_path / "masks/école.png")
        label(tmp_path, ["école.png", "b.png"])
        source = open_masks("mask_folder", str(tmp_path))
        assert source.ids == ["b.png", unicodedata.normalize("NFD", "école.png")]  # as on disk
        assert source.labels.tolist() == [1, 0]

    def test_masks_of_other_endings_are_found_and_those_of_no_image_are_counted(self, tmp_path: Path) -> None:
        for name in ("a.png", "b.png", "c.png"):
            photo_and_mask(tmp_path, name)
        Image.open(tmp_path / "masks/a.png").save(tmp_path / "masks/a.tif")
        (tmp_path / "masks/a.png").unlink()
        (tmp_path / "images/c.png").unlink()
        (tmp_path / "images/notes.txt").write_text("x")
        label(tmp_path, ["a.png", "b.png"])
        source = opened(tmp_path, image_size=24)
        assert (source.read_raw_mask(0) == source.read_raw_mask(1)).all()
        assert any("left out 1 file that Pillow does not read as an image: 1 .txt" in note for note in source.notes)
        assert any("that belong to no image, such as 'c.png'" in note for note in source.notes)
        photo_and_mask(tmp_path, "a.webp")
        (tmp_path / "masks/a.tif").unlink()
        label(tmp_path, ["a.png", "a.webp", "b.png"])
        with pytest.raises(UserError, match=r"a.png' would be the mask of both 'a.png' and 'a.webp'"):
            open_masks("mask_folder", str(tmp_path))


def circle(side: int, scale: int = 1) -> Image.Image:
    image = Image.new("L", (side * scale, side * scale))
    ImageDraw.Draw(image).ellipse((3 * scale, 4 * scale, 20 * scale, 21 * scale), fill=255)
    return image


class TestValues:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for i in range(4):
            photo_and_mask(tmp_path, f"{i}.png", (32, 32))
            circle(32).save(tmp_path / f"masks/{i}.png")
        label(tmp_path, [f"{i}.png" for i in range(4)])
        return tmp_path

    def test_smoothed_edges_are_refused_and_skipped_by_file(self, root: Path) -> None:
        circle(32, 4).resize((32, 32), Image.Resampling.BILINEAR).save(root / "masks/2.png")
        for values in (None, [0, 255]):
            with pytest.raises(
                UserError,
                match=r"masks/2.png' is wrong: it has \d+ values \(0, .*\), most of which only occur at edges",
            ):
                open_masks("mask_folder", str(root), mask_values=values)
        source = open_masks("mask_folder", str(root), on_error="skip")
        assert source.ids == ["0.png", "1.png", "3.png"]
        assert source.read_masks(np.arange(3)).unique().tolist() == [0, 1]

    def test_a_jpeg_is_refused_where_it_smears_and_taken_where_it_does_not(self, root: Path) -> None:
        (root / "masks/1.png").unlink()
        circle(32).save(root / "masks/1.jpg", quality=90)
        with pytest.raises(UserError, match=r"masks/1.jpg' is wrong: its format compresses with loss, and it has \d+ "):
            open_masks("mask_folder", str(root))
        blocks = np.zeros((32, 32), np.uint8)
        blocks[:16] = 1  # so dim that it vanishes
        Image.fromarray(blocks).save(root / "masks/1.jpg", quality=50)
        with pytest.raises(UserError, match=r"1.jpg' is wrong: its format .* it has 1 value \(0\); save masks as PNG"):
            open_masks("mask_folder", str(root))
        Image.fromarray(blocks * 255).save(root / "masks/1.jpg", quality=90)
        assert open_masks("mask_folder", str(root)).read_masks(np.array([1])).sum() == 16 * 32

    def test_thin_classes_are_no_smoothed_edges(self, root: Path) -> None:
        for i in range(4):
            lines = np.zeros((32, 32), np.uint8)
            for value in range(1, 6):
                lines[5 * value] = value
            Image.fromarray(lines).save(root / f"masks/{i}.png")
        assert open_masks("mask_folder", str(root)).mask_names == ["0", "1", "2", "3", "4", "5"]

    def test_gray_saved_as_colors_is_gray_and_colors_are_counted(self, root: Path) -> None:
        circle(32).convert("RGB").save(root / "masks/0.png")
        circle(32).convert("RGBA").save(root / "masks/1.png")
        read = open_masks("mask_folder", str(root)).read_masks(np.arange(3))
        assert (read[0] == read[2]).all()
        assert (read[1] == read[2]).all()
        colored = np.zeros((32, 32, 3), np.uint8)
        colored[:9], colored[20:] = (255, 0, 0), (0, 90, 7)
        Image.fromarray(colored).save(root / "masks/0.png")
        with pytest.raises(
            UserError, match=r"0.png' is wrong: it has 3 colors \(mode RGB\), and a mask has one integer"
        ):
            open_masks("mask_folder", str(root))

    def test_several_pages_are_refused(self, root: Path) -> None:
        (root / "masks/0.png").unlink()
        circle(32).save(root / "masks/0.tif", save_all=True, append_images=[circle(32)])
        with pytest.raises(UserError, match=r"0.tif' is wrong: it has several frames or pages, and a mask has one"):
            open_masks("mask_folder", str(root))
