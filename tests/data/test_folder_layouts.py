"""Which folders are classes and which are parts, and what is refused because it could mean two things."""

import pytest

from image_files import noise, save_image
from plcourse.data import ImageSplits, open_source, split
from plcourse.errors import UserError


def test_train_val_test_folders_are_the_sources_own_parts(gray_root):
    for part, names in (("train", ("one", "two", "three")), ("valid", ("one",)), ("test", ("two",))):
        for name in names:
            for i in range(4):
                seed = len(list(gray_root.rglob("*.png")))  # another one for each file
                save_image(gray_root / "all" / part / name / f"{i}.png", noise(6, 6, 1, seed))
    source = open_source("image_folder", str(gray_root / "all"))
    assert source.label_names == ["one", "three", "two"]
    assert source.parts is not None
    assert {part: len(indices) for part, indices in source.parts.items()} == {"train": 12, "val": 4, "test": 4}
    assert "valid/one/0.png" in source.ids
    parts = split(source, 100, 100)
    assert {part: len(indices) for part, indices in parts.items()} == {"train": 12, "val": 4, "test": 4}


def test_a_class_may_be_called_test_where_it_holds_images_and_other_classes_stand_beside_it(tmp_path):
    for name in ("Train", "test", "bus"):
        for i in range(3):
            save_image(tmp_path / name / f"{i}.png", noise(5, 5, seed=i))
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
                save_image(
                    tmp_path / part / label / f"{i}.png", noise(6, 6, 1, seed=[k, i, len(label) + ord(label[0])])
                )
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
        save_image(tmp_path / folder / "a.png", noise(4, 4, seed=k))
    with pytest.raises(UserError, match=message) as raised:
        open_source("image_folder", str(tmp_path))
    assert "\n" not in str(raised.value)


def test_sub_folders_of_classes_are_no_parts_and_no_classes(tmp_path):
    for k, folder in enumerate(("cat/images", "dog/images", "fox/day", "fox")):
        save_image(tmp_path / folder / "a.png", noise(4, 4, seed=k))
    assert open_source("image_folder", str(tmp_path)).label_names == ["cat", "dog", "fox"]


def test_one_name_in_two_unicode_forms_is_one_class_and_ids_stay_as_on_disk(tmp_path):
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    for k, folder in enumerate((f"train/{composed}", "train/tea", f"test/{decomposed}", "test/tea")):
        save_image(tmp_path / folder / "a.png", noise(4, 4, seed=k))
    source = open_source("image_folder", str(tmp_path))
    assert source.label_names == [composed, "tea"]
    assert source.labels[source.ids.index(f"test/{decomposed}/a.png")] == 0
    assert f"train/{composed}/a.png" in source.ids


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda root: None, r"nowhere' does not exist; give a folder with one sub-folder"),
        (lambda root: root.write_text("x"), r"nowhere' is a file"),
        (lambda root: save_image(root / "loose.png", noise(4, 4)), r"no class folder in '.*nowhere'"),
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
        save_image(tmp_path / folder / "x.png", noise(4, 4, seed=k))
    parts = ImageSplits("image_folder", str(tmp_path), val_size=0)
    with pytest.raises(UserError, match=r"class 'dog' is in test \(1 of 2 samples\) but not in training"):
        parts.open()
