import os
import warnings
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from image_files import noise, save_image, tear
from plcourse.data import FolderSource, open_files, open_source, overlap, split
from plcourse.errors import UserError


def test_one_folder_per_class(gray_root, mnist5k):
    source = open_source("image_folder", str(gray_root))
    assert source.label_names == ["one", "three", "two"]
    assert source.ids[0] == "one/00.png"
    assert np.bincount(source.labels).tolist() == [10, 10, 10]
    assert source.shape == (1, 28, 28)
    assert source.parts is None
    assert source.rejected == []
    first_two = np.flatnonzero(mnist5k.labels == 2)[:10]
    assert torch.equal(source.read(np.arange(20, 30)), mnist5k.images[first_two])


def test_names_that_are_not_utf_8_are_shown_with_their_bytes(tmp_path):
    for folder in (b"caf\xe9", b"tea"):  # as an archive from another system has them
        (place := Path(os.fsdecode(os.fsencode(tmp_path) + b"/photos/" + folder))).mkdir(parents=True)
        save_image(place / os.fsdecode(b"n\xe9.png"), noise(8, 8, 1))
    source = FolderSource.of_classes(str(tmp_path / "photos"))
    assert source.label_names == ["caf\\xe9", "tea"]
    assert source.ids == ["caf\\xe9/n\\xe9.png", "tea/n\\xe9.png"]
    assert source.read(np.arange(2)).shape == (2, 1, 8, 8)
    files = open_files([str(source.paths[0])])
    assert files.ids == [f"{tmp_path}/photos/caf\\xe9/n\\xe9.png"]
    assert torch.equal(files.read(np.zeros(1, np.int64)), source.read(np.zeros(1, np.int64)))
    assert pa.array([*source.ids, *files.ids]).null_count == 0, "Arrow takes no other text"


def test_reading_again_comes_from_memory_and_is_the_same(gray_root):
    source = FolderSource.of_classes(str(gray_root))
    picked = np.array([5, 0, 5, 29])
    first = source.read(picked)
    for path in source.paths:
        path.unlink()
    assert torch.equal(source.read(picked), first)
    with pytest.raises(UserError, match=r"one/01\.png"):
        source.read(np.array([1]))


def test_a_folder_too_large_for_the_memory_is_decoded_every_time(gray_root, monkeypatch):
    kept = open_source("image_folder", str(gray_root))
    monkeypatch.setattr("plcourse.data.image_folder.CACHE_BYTES", 100)
    decoded = FolderSource.of_classes(str(gray_root))
    picked = np.array([3, 17, 3])
    assert torch.equal(kept.read(picked), decoded.read(picked))
    decoded.paths[3].unlink()
    with pytest.raises(UserError, match=r"one/03\.png"):
        decoded.read(picked)


def test_one_color_image_makes_all_color(gray_root):
    save_image(gray_root / "one/red.jpg", np.full((28, 28, 3), (200, 0, 0), np.uint8), quality=95)
    source = open_source("image_folder", str(gray_root))
    assert source.shape == (3, 28, 28)
    gray, red = source.read(np.array([0, source.ids.index("one/red.jpg")]))
    assert torch.equal(gray[0], gray[2])
    assert red.float().mean(dim=(1, 2)).tolist() == pytest.approx([200, 0, 0], abs=3)


def test_mixed_sizes_are_scaled_and_cut_about_the_center(tmp_path):
    wide = np.zeros((40, 120, 3), np.uint8)
    wide[:, 40:80] = (10, 200, 30)  # the middle third, which is what stays
    save_image(tmp_path / "a/wide.png", wide)
    save_image(tmp_path / "a/tall.png", noise(100, 20))
    source = open_source("image_folder", str(tmp_path))
    assert source.shape == (3, 64, 64)
    image = source.read(np.array([source.ids.index("a/wide.png")]))[0]
    assert image[:, 8:-8, 8:-8].float().mean(dim=(1, 2)).tolist() == pytest.approx([10, 200, 30], abs=1)
    assert open_source("image_folder", str(tmp_path), image_size=20).shape == (3, 20, 20)


@pytest.mark.parametrize(("size", "kept"), [((30, 50), (30, 50)), ((256, 256), (256, 256)), ((20, 300), (64, 64))])
def test_a_common_size_is_kept_up_to_a_limit(tmp_path, size, kept):
    for i in range(2):
        save_image(tmp_path / f"a/{i}.png", noise(*size, seed=i))
    assert open_source("image_folder", str(tmp_path)).shape == (3, *kept)


def test_every_kind_of_file_is_read_as_it_looks(tmp_path):
    image = noise(16, 12)
    save_image(tmp_path / "a/bmp.BMP", image)
    save_image(tmp_path / "a/webp.webp", image, lossless=True)
    save_image(tmp_path / "a/rgba.png", np.dstack([image, np.full((16, 12), 255, np.uint8)]))
    (tmp_path / "a/deep").mkdir()
    Image.fromarray(image).quantize(200).save(tmp_path / "a/deep/palette.png", transparency=b"\xff\x80")
    (tmp_path / "a/notes.txt").write_text("not an image, passed over")
    (tmp_path / "a/.hidden.png").write_bytes(b"passed over too")
    source = FolderSource.of_classes(str(tmp_path))
    assert source.ids == ["a/bmp.BMP", "a/deep/palette.png", "a/rgba.png", "a/webp.webp"]
    assert source.notes[0] == "image_folder: left out 1 file that Pillow does not read as an image: 1 .txt"
    shown = source.read(np.arange(4)).permute(0, 2, 3, 1).numpy()
    for name in ("a/bmp.BMP", "a/rgba.png", "a/webp.webp"):
        np.testing.assert_array_equal(shown[source.ids.index(name)], image)
    assert np.abs(shown[1].astype(int) - image).mean() < 20


def test_whatever_pillow_reads_is_read_and_the_rest_is_counted_by_its_ending(tmp_path):
    image = noise(16, 16)
    kinds = {"jfif": "JPEG", "jpe": "JPEG", "jp2": "JPEG2000", "tga": "TGA", "pcx": "PCX", "apng": "PNG", "dib": "DIB",
             "sgi": "SGI", "qoi": "QOI", "mpo": "MPO", "avif": "AVIF"}  # fmt: skip
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for ending, kind in kinds.items():
            Image.fromarray(image).save(tmp_path / name / f"x.{ending.upper()}", kind)
    others = ("a.txt", "cat/b.TXT", "cat/c.heic", "dog/d.eps", "dog/plain", "Thumbs.db", "cat/.DS_Store", "loose.png")
    for path in others:
        (tmp_path / path).write_bytes(b"whatever")
    (tmp_path / "__MACOSX/cat").mkdir(parents=True)
    (tmp_path / "__MACOSX/cat/._x.png").write_bytes(b"whatever")
    source = FolderSource.of_classes(str(tmp_path))
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
    save_image(tmp_path / "elsewhere/x.png", noise(4, 4))
    save_image(tmp_path / "root/cat/y.png", noise(4, 4, seed=1))
    (tmp_path / "root/cat/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root/cat/round").symlink_to(tmp_path / "root")
    source = open_source("image_folder", str(tmp_path / "root"))
    assert source.ids == ["cat/more/x.png", "cat/y.png"]


@pytest.mark.parametrize("torn", ["two/03.png", "two/03.jpg"])
def test_a_torn_file_is_named_or_skipped_counted_and_listed(gray_root, torn):
    if torn.endswith("jpg"):
        Image.open(gray_root / "two/03.png").resize((280, 280)).save(gray_root / torn)
        (gray_root / "two/03.png").unlink()
    tear(gray_root / torn)

    def read_all():
        source = open_source("image_folder", str(gray_root))
        source.read(np.arange(len(source.ids)))  # a JPEG's header does not show it

    with pytest.raises(UserError, match=rf"cannot read the image '.*{torn}'.*on_error=skip") as raised:
        read_all()
    assert "\n" not in str(raised.value)
    source = open_source("image_folder", str(gray_root), on_error="skip")
    assert len(source.ids) == 29
    assert torn not in source.ids
    [(path, reason)] = source.rejected
    assert path.endswith(torn)
    assert reason
    assert source.read(np.arange(29)).shape[0] == 29


@pytest.mark.parametrize("content", [b"", b"this is text"])
def test_a_file_that_is_no_image_is_named_at_once(gray_root, content):
    (gray_root / "one/fake.png").write_bytes(content)
    with pytest.raises(UserError, match=r"one/fake\.png': not an image of a known format"):
        open_source("image_folder", str(gray_root))
    assert len(open_source("image_folder", str(gray_root), on_error="skip").rejected) == 1


def test_a_decompression_bomb_is_an_error_with_its_name(gray_root, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UserError, match=r"one/00\.png.*decompression bomb"):
        open_source("image_folder", str(gray_root))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 28 * 28 - 1)  # where Pillow itself would only warn
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=r"one/00\.png.*decompression bomb"):
            open_source("image_folder", str(gray_root))


def test_nothing_readable_at_all_is_an_error_with_skip_too(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.png").write_bytes(b"no")
    with pytest.raises(UserError, match="none of 1 image files can be read"):
        open_source("image_folder", str(tmp_path), on_error="skip")


def test_one_file_under_two_names_stays_on_one_side(gray_root):
    for i in range(10):
        (gray_root / f"two/copy{i}.png").write_bytes((gray_root / f"one/{i:02d}.png").read_bytes())
    source = open_source("image_folder", str(gray_root))
    same = source.hashes[source.ids.index("one/04.png")] == source.hashes[source.ids.index("two/copy4.png")]
    assert same
    for seed in range(5):
        assert overlap(split(source, 8, 8, seed), source) == []


def test_files_for_prediction_are_shown_as_the_model_was_trained(gray_root):
    save_image(gray_root / "flat/b.png", noise(50, 40))
    save_image(gray_root / "flat/a.png", noise(28, 28, 1))
    loose = str(gray_root / "one/00.png")
    source = open_files([str(gray_root / "flat"), loose, loose], (1, 28, 28))
    assert isinstance(source, FolderSource)
    assert source.ids == [f"{gray_root}/flat/a.png", f"{gray_root}/flat/b.png", loose]
    assert source.labels.tolist() == [-1, -1, -1]
    assert source.read(np.arange(3)).shape == (3, 1, 28, 28)


def test_files_that_are_not_there_are_named(tmp_path):
    with pytest.raises(UserError, match=r"predict_paths: '.*gone\.png' does not exist"):
        open_files([str(tmp_path / "gone.png")])
    with pytest.raises(UserError, match=r"predict_paths: '.*' leads to no image; give image files, folders"):
        open_files([str(tmp_path)])
