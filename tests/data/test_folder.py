import warnings
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from plcourse.data import FolderSource, ImageSplits, open_files, open_source, overlap, split
from plcourse.errors import UserError


def _save(path, array, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


@pytest.fixture
def grey_root(mnist5k, tmp_path):
    """Ten digits of each of the classes one, two, three, 28x28 grey PNG files."""
    for label, name in ((1, "one"), (2, "two"), (3, "three")):
        for i, index in enumerate(np.flatnonzero(mnist5k.labels == label)[:10]):
            _save(tmp_path / name / f"{i:02d}.png", mnist5k.images[index, 0].numpy())
    return tmp_path


def _tear(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _noise(height, width, channels=3, seed: Any = 0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8).squeeze()


def test_one_folder_per_class(grey_root, mnist5k):
    source = open_source("image_folder", str(grey_root))
    assert source.label_names == ["one", "three", "two"]
    assert source.ids[0] == "one/00.png"
    assert np.bincount(source.labels).tolist() == [10, 10, 10]
    assert source.shape == (1, 28, 28)
    assert source.parts is None
    assert source.rejected == []
    first_two = np.flatnonzero(mnist5k.labels == 2)[:10]
    assert torch.equal(source.read(np.arange(20, 30)), mnist5k.images[first_two])


def test_reading_again_comes_from_memory_and_is_the_same(grey_root):
    source: Any = open_source("image_folder", str(grey_root))
    picked = np.array([5, 0, 5, 29])
    first = source.read(picked)
    for path in source.paths:
        path.unlink()
    assert torch.equal(source.read(picked), first)
    with pytest.raises(UserError, match=r"one/01\.png"):
        source.read(np.array([1]))


def test_a_folder_too_large_for_the_memory_is_decoded_every_time(grey_root, monkeypatch):
    kept = open_source("image_folder", str(grey_root))
    monkeypatch.setattr("plcourse.data.image_folder.CACHE_BYTES", 100)
    decoded: Any = open_source("image_folder", str(grey_root))
    picked = np.array([3, 17, 3])
    assert torch.equal(kept.read(picked), decoded.read(picked))
    decoded.paths[3].unlink()
    with pytest.raises(UserError, match=r"one/03\.png"):
        decoded.read(picked)


def test_train_val_test_folders_are_the_sources_own_parts(grey_root):
    for part, names in (("train", ("one", "two", "three")), ("valid", ("one",)), ("test", ("two",))):
        for name in names:
            for i in range(4):
                seed = len(list(grey_root.rglob("*.png")))  # another one for each file
                _save(grey_root / "all" / part / name / f"{i}.png", _noise(6, 6, 1, seed))
    source = open_source("image_folder", str(grey_root / "all"))
    assert source.label_names == ["one", "three", "two"]
    assert source.parts is not None
    assert {part: len(indices) for part, indices in source.parts.items()} == {
        "train": 12,
        "val": 4,
        "test": 4,
    }
    assert "valid/one/0.png" in source.ids
    parts = split(source, 100, 100)
    assert {part: len(indices) for part, indices in parts.items()} == {"train": 12, "val": 4, "test": 4}


def test_a_class_may_be_called_test_where_it_holds_images_and_other_classes_stand_beside_it(tmp_path):
    for name in ("Train", "test", "bus"):
        for i in range(3):
            _save(tmp_path / name / f"{i}.png", _noise(5, 5, seed=i))
    source = open_source("image_folder", str(tmp_path))
    assert source.label_names == ["Train", "bus", "test"]
    assert source.parts is None


@pytest.mark.parametrize(
    "names", [("Train", "Test"), ("TRAINING", "Validation", "testing"), ("training", "dev", "eval"), ("train", "VALID")]
)
def test_parts_are_known_in_any_case_and_by_their_usual_names(tmp_path, names):
    means = {"t": "train", "d": "val", "v": "val", "e": "test"}
    for k, part in enumerate(names):
        for label in ("cat", "dog"):
            for i in range(3):
                _save(tmp_path / part / label / f"{i}.png", _noise(6, 6, 1, seed=[k, i, len(label) + ord(label[0])]))
    source = open_source("image_folder", str(tmp_path))
    expected = {"test" if name.lower().startswith("test") else means[name.lower()[0]] for name in names}
    assert source.label_names == ["cat", "dog"]
    assert source.parts is not None
    assert source.parts.keys() == expected
    for part, rows in source.parts.items():
        [folder] = {source.ids[i].split("/")[0] for i in rows}
        assert len(rows) == 6
        assert part == ("test" if folder.lower().startswith("test") else means[folder.lower()[0]])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("train/cat", "test/cat", "unlabeled"), r"'unlabeled' beside 'test', 'train' .* move it elsewhere"),
        (("Train/cat", "bus", "car"), r"'bus' beside 'Train'.* or rename 'Train' if these are classes"),
        (("train/cat", "val/cat", "valid/cat"), r"'.*val' and 'valid' both mean the val part"),
        (("train/cat", "test"), r"test' has no class folders, unlike 'train'; .* predict_paths"),
        (("Train", "test"), r"'Train', 'test' in .* are named like parts but have no class folders"),
        (("test/cat", "val/cat"), r"has 'test', 'val' but no train folder"),
        (
            ("2019/cat", "2019/dog", "2020/cat", "2020/dog"),
            r"'2019', '2020' .* all hold the same folders, 'cat', 'dog'",
        ),
        (
            ("train_set/cat", "train_set/dog", "test_set/dog", "test_set/cat"),
            r"all hold the same folders, 'cat', 'dog'",
        ),
        (("cat/train", "cat/test", "dog/train", "dog/test"), r"all hold the same folders, 'test', 'train'"),
        (("photos/cat", "photos/dog"), r"the only folder in .* is 'photos', which holds 'cat', 'dog'"),
    ],
    ids=["third", "class", "two", "flat-test", "flat", "no-train", "years", "sets", "inside", "wrapped"],
)
def test_a_layout_that_could_mean_two_things_is_refused_in_one_line(tmp_path, files, message):
    for k, folder in enumerate(files):
        _save(tmp_path / folder / "a.png", _noise(4, 4, seed=k))
    with pytest.raises(UserError, match=message) as raised:
        open_source("image_folder", str(tmp_path))
    assert "\n" not in str(raised.value)


def test_sub_folders_of_classes_are_no_parts_and_no_classes(tmp_path):
    for k, folder in enumerate(("cat/images", "dog/images", "fox/day", "fox")):
        _save(tmp_path / folder / "a.png", _noise(4, 4, seed=k))
    assert open_source("image_folder", str(tmp_path)).label_names == ["cat", "dog", "fox"]


def test_one_name_in_two_unicode_forms_is_one_class_and_ids_stay_as_on_disk(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for k, folder in enumerate((f"train/{composed}", "train/tea", f"test/{decomposed}", "test/tea")):
        _save(tmp_path / folder / "a.png", _noise(4, 4, seed=k))
    source = open_source("image_folder", str(tmp_path))
    assert source.label_names == [composed, "tea"]
    assert source.labels[source.ids.index(f"test/{decomposed}/a.png")] == 0
    assert f"train/{composed}/a.png" in source.ids


def test_one_colour_image_makes_all_colour(grey_root):
    _save(grey_root / "one/red.jpg", np.full((28, 28, 3), (200, 0, 0), np.uint8), quality=95)
    source = open_source("image_folder", str(grey_root))
    assert source.shape == (3, 28, 28)
    grey, red = source.read(np.array([0, source.ids.index("one/red.jpg")]))
    assert torch.equal(grey[0], grey[2])
    assert red.float().mean(dim=(1, 2)).tolist() == pytest.approx([200, 0, 0], abs=3)


def test_mixed_sizes_are_scaled_and_cut_about_the_centre(tmp_path):
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = (10, 200, 30)  # the middle third, which is what stays
    _save(tmp_path / "a/wide.png", wide)
    _save(tmp_path / "a/tall.png", _noise(100, 20))
    source = open_source("image_folder", str(tmp_path))
    assert source.shape == (3, 64, 64)
    image = source.read(np.array([source.ids.index("a/wide.png")]))[0]
    assert image[:, 8:-8, 8:-8].float().mean(dim=(1, 2)).tolist() == pytest.approx([10, 200, 30], abs=1)
    assert open_source("image_folder", str(tmp_path), image_size=20).shape == (3, 20, 20)


@pytest.mark.parametrize(("size", "kept"), [((30, 50), (30, 50)), ((256, 256), (256, 256)), ((20, 300), (64, 64))])
def test_a_common_size_is_kept_up_to_a_limit(tmp_path, size, kept):
    for i in range(2):
        _save(tmp_path / f"a/{i}.png", _noise(*size, seed=i))
    assert open_source("image_folder", str(tmp_path)).shape == (3, *kept)


def test_every_kind_of_file_is_read_as_it_looks(tmp_path):
    image = _noise(16, 12)
    _save(tmp_path / "a/bmp.BMP", image)
    _save(tmp_path / "a/webp.webp", image, lossless=True)
    _save(tmp_path / "a/rgba.png", np.dstack([image, np.full((16, 12), 255, np.uint8)]))
    (tmp_path / "a/deep").mkdir()
    Image.fromarray(image).quantize(200).save(tmp_path / "a/deep/palette.png", transparency=b"\xff\x80")
    (tmp_path / "a/notes.txt").write_text("not an image, passed over")
    (tmp_path / "a/.hidden.png").write_bytes(b"passed over too")
    source: Any = open_source("image_folder", str(tmp_path))
    assert source.ids == ["a/bmp.BMP", "a/deep/palette.png", "a/rgba.png", "a/webp.webp"]
    assert source.notes[0] == "image_folder: left out 1 file that Pillow does not read as an image: 1 .txt"
    shown = source.read(np.arange(4)).permute(0, 2, 3, 1).numpy()
    for name in ("a/bmp.BMP", "a/rgba.png", "a/webp.webp"):
        np.testing.assert_array_equal(shown[source.ids.index(name)], image)
    assert np.abs(shown[1].astype(int) - image).mean() < 20


def test_whatever_pillow_reads_is_read_and_the_rest_is_counted_by_its_ending(tmp_path):
    image = _noise(16, 16)
    kinds = {"jfif": "JPEG", "jpe": "JPEG", "jp2": "JPEG2000", "tga": "TGA", "pcx": "PCX", "apng": "PNG", "dib": "DIB",
             "sgi": "SGI", "qoi": "QOI", "mpo": "MPO", "avif": "AVIF"}  # fmt: skip
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for ending, kind in kinds.items():
            Image.fromarray(image).save(tmp_path / name / f"x.{ending.upper()}", kind)
    for path in (
        "a.txt",
        "cat/b.TXT",
        "cat/c.heic",
        "dog/d.eps",
        "dog/plain",
        "Thumbs.db",
        "cat/.DS_Store",
        "loose.png",
    ):
        (tmp_path / path).write_bytes(b"whatever")
    (tmp_path / "__MACOSX/cat").mkdir(parents=True)
    (tmp_path / "__MACOSX/cat/._x.png").write_bytes(b"whatever")
    source: Any = open_source("image_folder", str(tmp_path))
    assert sorted(source.ids) == sorted(f"{name}/x.{ending.upper()}" for name in ("cat", "dog") for ending in kinds)
    assert source.notes == [
        "image_folder: left out 5 files that Pillow does not read as images: 2 .txt, 1 .heic (Pillow cannot read it; "
        "convert it to JPEG or PNG), 1 .eps (a drawing, not pixels), 1 without an ending",
        f"image_folder: left out 1 image outside of the class folders, such as '{tmp_path}/loose.png'",
    ]
    files = open_files([str(tmp_path / "cat")], (3, 16, 16))
    assert len(files.ids) == len(kinds)
    assert files.notes[0].startswith(
        "predict_paths: left out 2 files that Pillow does not read as images: 1 .txt, 1 .heic"
    )


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path):
    _save(tmp_path / "elsewhere/x.png", _noise(4, 4))
    _save(tmp_path / "root/cat/y.png", _noise(4, 4, seed=1))
    (tmp_path / "root/cat/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/cat/round").symlink_to(tmp_path / "root")
    source = open_source("image_folder", str(tmp_path / "root"))
    assert source.ids == ["cat/more/x.png", "cat/y.png"]


def test_sixteen_bits_are_scaled_and_a_turned_photograph_stands_upright(tmp_path):
    ramp = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    _save(tmp_path / "deep/a.png", ramp)
    source = open_source("image_folder", str(tmp_path))
    assert source.shape == (1, 16, 16)
    np.testing.assert_array_equal(source.read(np.array([0]))[0, 0], ramp >> 8)

    lying = np.zeros((16, 32), np.uint8)
    lying[:, :16] = 255  # its left is up once turned by a quarter, which is what orientation 6 says
    turned = Image.Exif()
    turned[0x0112] = 6
    _save(tmp_path / "photo/a/b.jpg", lying, exif=turned, quality=100)
    source = open_source("image_folder", str(tmp_path / "photo"))
    assert source.shape == (1, 32, 16)
    image = source.read(np.array([0]))[0, 0].float()
    assert image[:14].mean() > 250
    assert image[18:].mean() < 5


@pytest.mark.parametrize("torn", ["two/03.png", "two/03.jpg"])
def test_a_torn_file_is_named_or_skipped_counted_and_listed(grey_root, torn):
    if torn.endswith("jpg"):
        Image.open(grey_root / "two/03.png").resize((280, 280)).save(grey_root / torn)
        (grey_root / "two/03.png").unlink()
    _tear(grey_root / torn)

    def read_all():
        source = open_source("image_folder", str(grey_root))
        source.read(np.arange(len(source.ids)))  # a JPEG's header does not show it

    with pytest.raises(UserError, match=rf"cannot read the image '.*{torn}'.*on_error=skip") as raised:
        read_all()
    assert "\n" not in str(raised.value)
    source = open_source("image_folder", str(grey_root), on_error="skip")
    assert len(source.ids) == 29
    assert torn not in source.ids
    [(path, reason)] = source.rejected
    assert path.endswith(torn)
    assert reason
    assert source.read(np.arange(29)).shape[0] == 29


@pytest.mark.parametrize("content", [b"", b"this is text"])
def test_a_file_that_is_no_image_is_named_at_once(grey_root, content):
    (grey_root / "one/fake.png").write_bytes(content)
    with pytest.raises(UserError, match=r"one/fake\.png': not an image of a known format"):
        open_source("image_folder", str(grey_root))
    assert len(open_source("image_folder", str(grey_root), on_error="skip").rejected) == 1


def test_a_decompression_bomb_is_an_error_with_its_name(grey_root, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"one/00\.png.*decompression bomb"):
        open_source("image_folder", str(grey_root))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 28 * 28 - 1)  # where Pillow itself would only warn
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=r"one/00\.png.*decompression bomb"):
            open_source("image_folder", str(grey_root))


def test_nothing_readable_at_all_is_an_error_with_skip_too(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.png").write_bytes(b"no")
    with pytest.raises(UserError, match="none of 1 image files can be read"):
        open_source("image_folder", str(tmp_path), on_error="skip")


def test_one_file_under_two_names_stays_on_one_side(grey_root):
    for i in range(10):
        (grey_root / f"two/copy{i}.png").write_bytes((grey_root / f"one/{i:02d}.png").read_bytes())
    source = open_source("image_folder", str(grey_root))
    same = source.hashes[source.ids.index("one/04.png")] == source.hashes[source.ids.index("two/copy4.png")]
    assert same
    for seed in range(5):
        assert overlap(split(source, 8, 8, seed), source) == []


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda root: None, r"nowhere' does not exist; give a folder with one sub-folder"),
        (lambda root: root.write_text("x"), r"nowhere' is a file"),
        (lambda root: _save(root / "loose.png", _noise(4, 4)), r"no class folder in '.*nowhere'"),
        (lambda root: (root / "cats").mkdir(parents=True), r"no image in '.*cats'"),
    ],
    ids=["missing", "file", "flat", "empty-class"],
)
def test_a_folder_of_another_layout_is_explained(tmp_path, build, message):
    build(tmp_path / "nowhere")
    with pytest.raises(UserError, match=message) as raised:
        open_source("image_folder", str(tmp_path / "nowhere"))
    assert "\n" not in str(raised.value)


def test_a_class_of_the_test_folder_that_is_not_trained_on_is_refused(tmp_path):
    for k, folder in enumerate(("train/cat", "train/fox", "test/dog", "test/cat")):
        _save(tmp_path / folder / "x.png", _noise(4, 4, seed=k))
    parts = ImageSplits("image_folder", str(tmp_path), val_size=0)
    with pytest.raises(UserError, match=r"class 'dog' is in test \(1 of 2 samples\) but not in training"):
        parts.open()


def test_files_for_prediction_are_shown_as_the_model_was_trained(grey_root):
    _save(grey_root / "flat/b.png", _noise(50, 40))
    _save(grey_root / "flat/a.png", _noise(28, 28, 1))
    loose = str(grey_root / "one/00.png")
    source = open_files([str(grey_root / "flat"), loose, loose], (1, 28, 28))
    assert isinstance(source, FolderSource)
    assert source.ids == [f"{grey_root}/flat/a.png", f"{grey_root}/flat/b.png", loose]
    assert source.labels.tolist() == [-1, -1, -1]
    assert source.read(np.arange(3)).shape == (3, 1, 28, 28)


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(UserError, match=r"predict_paths: '.*gone\.png' does not exist"):
        open_files([str(tmp_path / "gone.png")])
    with pytest.raises(UserError, match=r"predict_paths: '.*' leads to no image; give image files, folders"):
        open_files([str(tmp_path)])
