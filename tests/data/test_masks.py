"""Images with masks: the construction on photographs, and what users' folders may look like."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from plcourse.data import IGNORE, MaskSplits, open_masks, open_source, overlap
from plcourse.data.masks import digits_on_photos
from plcourse.data.sources import package_file
from plcourse.errors import UserError

REGIONS = {"train": (0, 384), "val": (384, 480), "test": (480, 640)}  # columns of photographs that are 640 wide


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes `images/`, `masks/` and `labels.csv` of six samples in two classes, with what a test changes in them."""

    def make(labels: str | None = None, **masks: np.ndarray | None) -> Path:
        for name in ("images", "masks"):
            (tmp_path / name).mkdir()
        rng = np.random.default_rng(1)
        for i, name in enumerate("abcdef"):
            size = (20, 30) if i % 2 else (16, 16)
            Image.fromarray(rng.integers(0, 255, (*size, 3)).astype(np.uint8)).save(tmp_path / "images" / f"{name}.png")
            mask = masks.get(name, np.full(size, i % 3, np.uint8))
            if mask is not None:
                Image.fromarray(mask).save(tmp_path / "masks" / f"{name}.png")
        rows = "".join(f"{name}.png,{'cat' if i < 3 else 'dog'}\n" for i, name in enumerate("abcdef"))
        (tmp_path / "labels.csv").write_text(labels if labels is not None else f"file,label\n{rows}")
        return tmp_path

    return make


class TestDigitsOnPhotos:
    @pytest.mark.medium
    def test_each_part_is_cut_from_its_own_region(self) -> None:
        source = digits_on_photos()
        digits = open_source("mnist5k").read(np.arange(5000))[:, 0].numpy()
        photos = [np.asarray(Image.open(str(package_file("sklearn", f"datasets/images/{name}.jpg"))))
                  for name in ("china", "flower")]  # fmt: skip
        assert source.parts is not None
        for part, (first, last) in REGIONS.items():
            for i in source.parts[part][[3, 50, 200]].tolist():
                image, bare = source.images[i].permute(1, 2, 0).numpy(), digits[i] == 0
                columns = [column for photo in photos for column in places(photo, image, bare)]
                assert columns
                assert all(first <= column <= last - 28 for column in columns), part

    @pytest.mark.medium
    def test_a_digit_inverts_what_is_behind_it_and_is_the_mask(self) -> None:
        source, digits = digits_on_photos(), open_source("mnist5k")
        ink = digits.read(np.arange(5000))[:, 0]
        assert source.masks is not None
        assert torch.equal(source.masks, (ink >= 128).to(torch.uint8))
        again = digits_on_photos()
        assert torch.equal(again.images, source.images)
        assert source.ids[7] == "digits_on_photos/00007"
        full = (ink == 255)[:, None].expand_as(source.images)
        assert source.images[full].float().mean() > 100  # photographs are dark rather than bright

    def test_parts_share_nothing_and_follow_the_sizes(self) -> None:
        source = open_masks("digits_on_photos", sizes=(100, 300), split_seed=4)
        assert source.parts is not None
        assert {name: len(part) for name, part in source.parts.items()} == {"train": 4600, "val": 100, "test": 300}
        assert overlap(source.parts, source) == []


def places(photo: np.ndarray, image: np.ndarray, bare: np.ndarray) -> list[int]:
    """The columns at which a photograph shows an image wherever no digit covers it."""
    size = image.shape[0]
    height, width = photo.shape[0] - size + 1, photo.shape[1] - size + 1
    fits = np.ones((height, width), bool)
    for y, x in np.argwhere(bare)[::40]:
        fits &= (photo[y : y + height, x : x + width] == image[y, x]).all(axis=2)
    return [
        int(column)
        for row, column in np.argwhere(fits)
        if (photo[row : row + size, column : column + size] == image)[bare].all()
    ]


class TestMaskFolder:
    def test_classes_and_mask_classes_are_counted_and_sizes_are_brought_to_one(
        self, folder: Callable[..., Path]
    ) -> None:
        source = open_masks("mask_folder", str(folder()), image_size=10)
        assert source.label_names == ["cat", "dog"]
        assert source.mask_names == ["0", "1", "2"]
        assert source.sizes.tolist() == [[16, 16], [20, 30]] * 3
        assert source.read(np.array([0, 1])).shape == (2, 3, 10, 10)
        assert [each.unique().tolist() for each in source.read_masks(np.arange(3))] == [[0], [1], [2]]
        assert source.ids == [f"{name}.png" for name in "abcdef"]

    def test_an_image_is_scaled_as_a_whole_so_that_its_mask_covers_it(self, folder: Callable[..., Path]) -> None:
        left = np.zeros((20, 30), np.uint8)
        left[:, :15] = 1
        source = open_masks("mask_folder", str(folder(b=left)), image_size=10)
        assert source.read_masks(np.array([1]))[0].tolist() == [[1] * 5 + [0] * 5] * 10

    def test_a_mask_of_0_and_255_has_two_classes_and_255_is_ignored_in_others(
        self, folder: Callable[..., Path]
    ) -> None:
        plain = {n: np.full((20, 30) if i % 2 else (16, 16), 255 * (i % 2), np.uint8) for i, n in enumerate("abcdef")}
        source = open_masks("mask_folder", str(folder(**plain)))
        assert source.mask_names == ["0", "1"]
        assert source.read_masks(np.array([0, 1])).amax(dim=(1, 2)).tolist() == [0, 1]

    def test_255_marks_pixels_of_no_class(self, folder: Callable[..., Path]) -> None:
        source = open_masks("mask_folder", str(folder(a=np.full((16, 16), 255, np.uint8))))
        assert source.mask_names == ["0", "1", "2"]
        assert source.read_masks(np.array([0])).unique().tolist() == [IGNORE]

    def test_the_values_of_the_classes_can_be_listed(self, folder: Callable[..., Path]) -> None:
        names = {n: np.full((20, 30) if i % 2 else (16, 16), (0, 85, 170)[i % 3], np.uint8)
                 for i, n in enumerate("abcdef")}  # fmt: skip
        root = str(folder(**names))
        with pytest.raises(
            UserError,
            match=r"have the values 0, 85, 170, .*\.png' has 170\).*mask_values='\[0, 85, 170\]', or name all 171",
        ):
            open_masks("mask_folder", root)
        source = open_masks("mask_folder", root, mask_values=[0, 170, 85])
        assert source.mask_names == ["0", "170", "85"]
        assert [each.unique().tolist() for each in source.read_masks(np.arange(3))] == [[0], [2], [1]]
        for listed, named, told in (
            ([0, 85], None, r"f.png' has the value 170, which mask_values \[0, 85\] does not list"),
            ([0, 85, 85], None, "give two or more different values"),
            ([0, 85, 170], ["sky", "sea"], "mask_values has 3 classes and mask_names 2"),
        ):
            with pytest.raises(UserError, match=told):
                open_masks("mask_folder", root, mask_values=listed, mask_names=named)

    def test_a_class_that_no_mask_has_is_there_if_it_is_named(self, folder: Callable[..., Path]) -> None:
        names = {n: np.full((20, 30) if i % 2 else (16, 16), 2 * (i % 2), np.uint8) for i, n in enumerate("abcdef")}
        source = open_masks("mask_folder", str(folder(**names)), mask_names=["sky", "sea", "land"])
        assert source.read_masks(np.array([0, 1])).amax(dim=(1, 2)).tolist() == [0, 2]

    def test_a_mask_may_have_png_behind_the_whole_name_as_predicted_ones_do(self, folder: Callable[..., Path]) -> None:
        root = folder()
        (root / "masks" / "c.png").rename(root / "masks" / "c.png.png")
        assert open_masks("mask_folder", str(root)).read_masks(np.array([2])).unique().tolist() == [2]

    def test_a_palette_counts_as_numbers(self, folder: Callable[..., Path]) -> None:
        root = folder()
        image = Image.frombytes("P", (16, 16), bytes([2] * 256))
        image.putpalette([0, 0, 0, 255, 0, 0, 9, 9, 9])
        image.save(root / "masks" / "a.png")
        assert open_masks("mask_folder", str(root)).read_masks(np.array([0])).unique().tolist() == [2]

    def test_skip_leaves_bad_pairs_out_and_lists_them(self, folder: Callable[..., Path]) -> None:
        root = folder(b=np.zeros((16, 16), np.uint8))
        (root / "masks" / "c.png").write_bytes(b"no image")
        (root / "images" / "e.png").write_bytes(b"no image")
        source = open_masks("mask_folder", str(root), on_error="skip")
        assert source.ids == ["a.png", "d.png", "f.png"]
        assert {Path(path).name for path, _ in source.rejected} == {"b.png", "c.png", "e.png"}
        assert source.read_masks(np.arange(3)).shape == (3, 64, 64)

    @pytest.mark.parametrize(
        ("masks", "labels", "told"),
        [
            ({"b": np.zeros((16, 16), np.uint8)}, None, "b.png' is wrong: it is 16 x 16 pixels and its image 20 x 30"),
            ({"b": None}, None, "'b.png' has no mask"),
            (
                {"a": np.eye(16, dtype=np.uint8)[..., None] * np.array([9, 0, 0], np.uint8)},
                None,
                "it has 2 colors (mode RGB), and a mask",
            ),
            ({"a": np.full((16, 16), 300, np.uint16)}, None, "it has the value 300; classes are 0 to 254"),
            ({}, "file,label\na.png,cat\nb.png,dog\n", "has no label for 'c.png'"),
            ({}, "name,label\na.png,cat\n", "has no column 'file'"),
            ({}, "", "labels.csv': it is empty"),
            ({}, "file,label\na.png,\n", "line 2 is 'a.png,'; it needs a file and a label"),
            ({}, "file,label\na.png,cat\na.png,dog\n", "duplicate file 'a.png'"),
            ({}, "file,label\n" + "".join(f"{n}.png,cat\n" for n in "abcdef"), "1 label(s); a classifier needs two"),
            ({}, "file,label\n" + "".join(f"{n}.png,cat\n" for n in "abcdefg") + "h.png,dog\n", "names 'g.png', which"),
        ],
        ids=["size", "missing", "colors", "value", "no_label", "column", "empty", "blank", "twice", "one", "no_file"],
    )
    def test_what_is_wrong_is_said_in_one_line(
        self, folder: Callable[..., Path], masks: dict[str, np.ndarray], labels: str | None, told: str
    ) -> None:
        root = folder(labels, **masks)
        with pytest.raises(UserError) as raised:
            open_masks("mask_folder", str(root))
        assert told in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_too_few_names_and_missing_pieces_are_named(self, folder: Callable[..., Path], tmp_path: Path) -> None:
        root = folder()
        with pytest.raises(UserError, match="the masks have 3 classes, 0 to 2, and mask_names 2"):
            open_masks("mask_folder", str(root), mask_names=["sky", "sea"])
        with pytest.raises(UserError, match=r"'.*nowhere/images' does not exist; the folder must hold images/, masks/"):
            open_masks("mask_folder", str(tmp_path / "nowhere"))
        with pytest.raises(UserError, match=r"unknown source 'mask_foldr' of masks; .* did you mean 'mask_folder'"):
            open_masks("mask_foldr")


def test_the_pets_are_read_from_their_own_layout(tmp_path: Path) -> None:
    top = tmp_path / "oxford-iiit-pet"
    for name in ("images", "annotations/trimaps"):
        (top / name).mkdir(parents=True)
    names = ["Abyssinian_1", "american_bulldog_12", "Abyssinian_2", "american_bulldog_3"]
    for name in names:
        Image.new("RGB", (12, 9), (len(name), 0, 0)).save(top / "images" / f"{name}.jpg")
        trimap = np.repeat(np.array([[1, 2, 3]], np.uint8), 4, axis=1).repeat(9, axis=0)
        Image.fromarray(trimap).save(top / "annotations" / "trimaps" / f"{name}.png")
    (top / "annotations" / "trainval.txt").write_text("".join(f"{name} 1 1 1\n" for name in names[:2]))
    (top / "annotations" / "test.txt").write_text("".join(f"{name} 1 1 1\n" for name in names[2:]))
    source = open_masks("oxford_pets", str(tmp_path))
    assert source.label_names == ["abyssinian", "american bulldog"]
    assert source.read_masks(np.array([0]))[0, 0].tolist() == [1] * 4 + [0] * 4 + [IGNORE] * 4
    assert source.parts is not None
    assert {part: indices.tolist() for part, indices in source.parts.items()} == {"train": [0, 1], "test": [2, 3]}
    with pytest.raises(UserError, match="oxford_pets: its files are not under"):
        open_masks("oxford_pets", str(tmp_path / "elsewhere"))


def test_new_files_are_made_into_batches_by_what_the_checkpoint_says(folder: Callable[..., Path]) -> None:
    root = folder()
    trained = MaskSplits("mask_folder", str(root), image_size=10, val_size=0, test_size=0)
    trained.open()
    parts = MaskSplits("mask_folder", "not there")
    parts.load_state_dict(trained.state_dict())
    (batch,) = parts.files_loader(None, [str(root / "images")], 8)
    assert batch["image"].shape == (6, 3, 10, 10)
    assert "mask" not in batch
    assert batch["size"].tolist() == [[16, 16], [20, 30]] * 3
    expected = next(iter(trained.eval_loader(None, "train", 8)))
    assert torch.equal(batch["image"], expected["image"])
    assert parts.mask_names == ["0", "1", "2"]


def test_a_checkpoint_of_other_masks_is_refused(folder: Callable[..., Path]) -> None:
    parts = MaskSplits("mask_folder", str(folder()), val_size=0, test_size=0)
    parts.open()
    with pytest.raises(UserError, match=r"mask_folder has the class of pixels '[^']*', .* trained on sky, sea"):
        parts.load_state_dict({**parts.state_dict(), "mask_names": ["sky", "sea"]})
