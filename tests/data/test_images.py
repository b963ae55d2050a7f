import numpy as np
import pytest
import torch

from plcourse.data import (
    ArraySource,
    ImageDataset,
    ImageSplits,
    MaskSplits,
    Normalization,
    Process,
    RandomCrop,
    eval_loader,
    fit_normalization,
    train_loader,
)


def test_normalization_is_fitted_to_the_given_samples_only(mnist5k):
    indices = np.arange(100, 900, 3)
    pixels = mnist5k.images[indices].double() / 255
    fitted = fit_normalization(mnist5k, indices)
    assert fitted.mean == pytest.approx([pixels.mean().item()], rel=1e-12)
    assert fitted.std == pytest.approx([pixels.std(correction=0).item()], rel=1e-9)
    others_changed = mnist5k.images.clone()
    others_changed[np.setdiff1d(np.arange(5000), indices)] = 255
    changed = ArraySource("changed", mnist5k.ids, others_changed, mnist5k.labels, mnist5k.label_names)
    assert fit_normalization(changed, indices) == fitted


def test_normalization_is_per_channel_and_a_flat_channel_is_harmless():
    images = torch.zeros(6, 3, 4, 4, dtype=torch.uint8)
    images[:, 0, :2] = 255
    images[:, 1] = 51
    source = ArraySource("made", [str(i) for i in range(6)], images, np.zeros(6, np.int64), ["x"])
    fitted = fit_normalization(source, np.arange(6))
    assert fitted.mean == pytest.approx([0.5, 0.2, 0.0])
    assert fitted.std == pytest.approx([0.5, 1.0, 1.0])


def test_normalization_of_many_images_reads_a_sample_of_them(mnist5k):
    exact = fit_normalization(mnist5k, np.arange(5000), limit=5000)
    sampled = fit_normalization(mnist5k, np.arange(5000), limit=500)
    assert sampled != exact
    assert sampled.mean == pytest.approx(exact.mean, rel=0.02)
    assert sampled.std == pytest.approx(exact.std, rel=0.02)


@pytest.mark.parametrize("augment", [None, [RandomCrop(0)]], ids=["plain", "augmented"])
def test_a_batch_is_the_normalized_images_with_labels_and_ids(mnist5k, augment):
    indices = np.array([4000, 7, 123, 2500])
    data = ImageDataset(mnist5k, indices, Normalization([0.13], [0.31]), augment)
    batch = data.fetch(np.array([3, 1]), epoch=0)
    expected = (mnist5k.images[[2500, 7]].float() / 255 - 0.13) / 0.31
    torch.testing.assert_close(batch["image"], expected)
    assert batch["image"].dtype == torch.float32
    assert batch["label"].tolist() == mnist5k.labels[[2500, 7]].tolist()
    assert batch["label"].dtype == torch.int64
    assert batch["id"] == ["mnist5k/02500", "mnist5k/00007"]
    assert len(data) == 4


def test_fetching_does_not_touch_the_images_in_memory(mnist5k):
    before = mnist5k.images.clone()
    data = ImageDataset(mnist5k, np.arange(50), Normalization([0.1], [0.3]), [RandomCrop(2)])
    data.fetch(np.arange(50), 0)
    assert torch.equal(mnist5k.images, before)


def test_color_is_normalized_per_channel():
    images = torch.arange(2 * 3 * 4, dtype=torch.uint8).reshape(2, 3, 2, 2)
    source = ArraySource("made", ["a", "b"], images, np.zeros(2, np.int64), ["x"])
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    batch = ImageDataset(source, np.arange(2), Normalization(mean, std)).fetch(np.arange(2), 0)
    expected = (images / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(batch["image"], expected)


def test_augmentation_follows_seed_epoch_and_sample_across_parts(mnist5k):
    norm = Normalization([0.0], [1.0])
    wide = ImageDataset(mnist5k, np.arange(100), norm, [RandomCrop(4)], seed=5)
    narrow = ImageDataset(mnist5k, np.array([60, 42]), norm, [RandomCrop(4)], seed=5)
    assert torch.equal(wide.fetch(np.array([42]), 3)["image"], narrow.fetch(np.array([1]), 3)["image"])
    every = np.arange(100)
    assert not torch.equal(wide.fetch(every, 3)["image"], wide.fetch(every, 4)["image"])
    other_seed = ImageDataset(mnist5k, every, norm, [RandomCrop(4)], seed=6)
    assert not torch.equal(wide.fetch(every, 3)["image"], other_seed.fetch(every, 3)["image"])


def test_ranks_share_each_global_batch(digits, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "9")
    data = ImageDataset(digits, np.arange(101), Normalization([0.0], [1.0]))
    alone = [b["id"] for b in train_loader(data, 20, Process())]
    shares = [[b["id"] for b in train_loader(data, 10, Process(rank, 2))] for rank in range(2)]
    together = [first + second for first, second in zip(*shares, strict=True)]
    # a last batch of one sample cannot be shared by two processes, so it joins the one before
    assert together == [*alone[:4], alone[4] + alone[5]]
    evaluated = [name for rank in range(2) for b in eval_loader(data, 7, Process(rank, 2)) for name in b["id"]]
    assert evaluated == data.ids


def test_parts_are_opened_when_needed_and_only_once(monkeypatch):
    opened = []
    import plcourse.data.image_splits as module

    real = module.open_source
    monkeypatch.setattr(module, "open_source", lambda *args: opened.append(args[0]) or real(*args))
    images = ImageSplits("digits")
    assert opened == []
    assert images.num_classes == 10
    assert len(images.ids) + len(images.parts["test"]) == 1797
    fold = images.with_split(images.ids[:100], images.ids[100:150])
    assert fold.source is images.source
    assert opened == ["digits"]


@pytest.mark.parametrize("images", [ImageSplits("digits"), MaskSplits("digits_on_photos", image_size=8)])
def test_a_new_split_keeps_the_test_part_and_is_normalized_anew(images):
    zeros = [name for name, label in zip(images.ids, images.labels, strict=True) if label == 0]
    others = [name for name in images.ids if name not in set(zeros)]
    before = images.normalization
    fold = images.with_split(zeros, others)
    assert [fold.source.ids[i] for i in fold.parts["train"]] == zeros
    assert np.array_equal(fold.parts["test"], images.parts["test"])
    assert fold.normalization == fit_normalization(images.source, fold.parts["train"]) != before
    assert images.normalization == before
    assert sorted(fold.ids) == sorted(images.ids)
    assert next(iter(fold.eval_loader(None, "train", 20)))["id"] == zeros[:20]


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (lambda images: (["digits/99999"], images.ids[:5]), "id 'digits/99999' is not for training"),
        (lambda images: ([images.source.ids[images.parts["test"][0]]], []), "is not for training"),
        (lambda images: (images.ids[:5], images.ids[4:9]), "is in train and val"),
    ],
    ids=["unknown", "test", "both"],
)
def test_a_split_that_leaks_is_refused(choose, message):
    images = ImageSplits("digits")
    with pytest.raises(ValueError, match=message):
        images.with_split(*choose(images))
