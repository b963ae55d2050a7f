import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plcourse.data import duplicate_groups, overlap, split
from plcourse.data.splits import check_classes
from plcourse.errors import UserError


def _sizes(parts):
    return {name: len(indices) for name, indices in parts.items()}


@pytest.mark.parametrize("seed", [0, 1])
def test_mnist5k_gives_exactly_the_sizes_asked_for(mnist5k, seed):
    parts = split(mnist5k, 500, 1000, seed)
    assert _sizes(parts) == {"train": 3500, "val": 500, "test": 1000}
    assert overlap(parts, mnist5k) == []
    for indices, share in ((parts["test"], 100), (parts["val"], 50)):
        assert np.abs(np.bincount(mnist5k.labels[indices]) - share).max() <= 1


def test_shares_and_numbers_mean_the_same(digits):
    n = len(digits.ids)
    by_share, by_number = split(digits, 0.1, 0.2), split(digits, round(0.1 * n), round(0.2 * n))
    assert all(np.array_equal(by_share[part], by_number[part]) for part in by_share)


def test_a_size_of_zero_leaves_the_part_empty(digits):
    assert _sizes(split(digits, 0, 0)) == {"train": 1797, "val": 0, "test": 0}
    assert _sizes(split(digits, 0.0, 10)) == {"train": 1787, "val": 0, "test": 10}


def test_the_seed_decides(digits):
    one, same, other = (split(digits, 100, 200, seed) for seed in (3, 3, 4))
    assert all(np.array_equal(one[part], same[part]) for part in one)
    assert len(np.intersect1d(one["test"], other["test"])) < 60  # 22 by chance


@st.composite
def _labeled(draw):
    """Contents, some of them repeated, with a label that belongs to the content."""
    n_classes = draw(st.integers(1, 4))
    contents, labels = [], []
    for label in range(n_classes):
        n_distinct = draw(st.integers(4, 25))
        for i in range(n_distinct):
            times = draw(st.sampled_from([1, 1, 1, 2, 3]))
            contents += [label * 1000 + i] * times
            labels += [label] * times
    order = draw(st.permutations(range(len(contents))))
    return [contents[i] for i in order], [labels[i] for i in order]


@pytest.mark.medium
@given(made=_labeled(), val=st.floats(0, 0.4), test=st.floats(0, 0.4), seed=st.integers(0, 99))
def test_parts_share_nothing_and_lose_nothing(make_source, made, val, test, seed):
    contents, labels = made
    source = make_source(contents, labels)
    n = len(contents)
    try:
        parts = split(source, val, test, seed)
    except UserError as error:
        # a refusal is also right
        assert any(why in str(error) for why in ("leave a class without a training sample", "is too small"))  # noqa: PT017
        return
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(n))
    of_part = {name: {contents[i] for i in indices} for name, indices in parts.items()}
    assert not of_part["train"] & of_part["val"]
    assert not of_part["train"] & of_part["test"]
    assert not of_part["val"] & of_part["test"]
    assert {labels[i] for i in parts["train"]} == set(labels)
    for name, share in (("val", val), ("test", test)):
        assert round(share * n) - 3 < len(parts[name]) <= round(share * n)


def test_a_part_smaller_than_every_set_of_duplicates_is_refused(make_source):
    with pytest.raises(UserError, match=r"val_size=1 is too small: .* the smallest remaining set has 2"):
        split(make_source([0, 0, 1, 1, 2, 2, 3, 3], [0] * 8), 1, 0)


@given(
    counts=st.lists(st.integers(4, 60), min_size=1, max_size=5),
    val=st.integers(0, 12),
    test=st.integers(0, 12),
    seed=st.integers(0, 99),
)
def test_without_duplicates_sizes_are_exact_and_each_class_has_its_share(make_source, counts, val, test, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    source = make_source(np.arange(len(labels)), labels)
    try:
        parts = split(source, val, test, seed)
    except UserError:
        assert val + test > len(labels) - len(counts)
        return
    assert _sizes(parts) == {"train": len(labels) - val - test, "val": val, "test": test}
    in_test = np.bincount(labels[parts["test"]], minlength=len(counts))
    roomy = np.array(counts) - 2 >= test * np.array(counts) / len(labels) + 1
    if roomy.all():
        assert np.abs(in_test - test * np.array(counts) / len(labels)).max() < 1


def test_one_duplicated_class_does_not_spoil_the_size(make_source):
    # class 0 comes in pairs, so of its share of 5 it can give 4; class 1 makes up for it
    source = make_source([*np.repeat(np.arange(10), 2), *range(100, 120)], [0] * 20 + [1] * 20)
    parts = split(source, 0, 10)
    assert _sizes(parts) == {"train": 30, "val": 0, "test": 10}
    assert np.bincount(source.labels[parts["test"]]).tolist() == [4, 6]


def test_equal_images_with_different_labels_stay_together(make_source):
    source = make_source([*range(10), *range(10), *range(10, 40)], [0] * 10 + [1] * 10 + [0] * 15 + [1] * 15)
    parts = split(source, 8, 8)
    assert overlap(parts, source) == []


def test_other_samples_hardly_move_a_sample(make_source):
    labels = np.arange(1000) % 4
    before = split(make_source(np.arange(1000), labels), 0.1, 0.2)
    after = split(make_source(np.arange(1040), np.arange(1040) % 4), 0.1, 0.2)
    moved = len(np.setdiff1d(before["test"], after["test"]))
    assert moved <= 12  # 200 of them; only those at the border of each class can move
    assert len(np.intersect1d(before["train"], after["train"])) >= 680


def test_the_order_of_the_samples_does_not_matter(make_source):
    order = np.random.default_rng(0).permutation(200)
    one = split(make_source(np.arange(200), np.arange(200) % 3), 20, 40)
    other = split(make_source(order, order % 3), 20, 40)
    for part in one:
        assert sorted(order[other[part]].tolist()) == one[part].tolist()


def test_a_sources_own_test_part_is_kept_and_cleaned_of_nothing(make_source):
    contents = np.arange(60)
    contents[3] = 50  # a training sample that is also in the test part
    own = {"train": np.arange(45), "test": np.arange(45, 60)}
    source = make_source(contents, contents % 2, own)
    parts = split(source, 9, 30)
    assert parts["test"].tolist() == list(range(45, 60))
    assert _sizes(parts) == {"train": 35, "val": 9, "test": 15}
    assert 3 not in np.concatenate(list(parts.values()))
    assert overlap(parts, source) == []


def test_a_sources_own_three_parts_are_kept(make_source):
    own = {"train": np.arange(30), "val": np.arange(30, 40), "test": np.arange(40, 50)}
    contents = np.arange(50)
    contents[35] = 44  # in val and test
    parts = split(make_source(contents, [0, 1] * 25, own), 5, 5)
    assert _sizes(parts) == {"train": 30, "val": 9, "test": 10}


def test_overlap_finds_ids_and_contents(make_source):
    source = make_source([1, 2, 3, 1], [0, 0, 0, 0])
    assert overlap({"train": np.array([0, 1]), "val": np.array([2])}, source) == []
    assert overlap({"train": np.array([0, 1]), "val": np.array([1])}, source) == [("train", "val", "made/1")]
    assert overlap({"train": np.array([0, 1]), "test": np.array([3])}, source) == [("train", "test", "made/0")]


def test_groups_name_the_duplicates(make_source):
    assert duplicate_groups(make_source([1, 2, 3], [0, 0, 0]).hashes) is None
    groups = duplicate_groups(make_source([1, 2, 1], [0, 0, 0]).hashes)
    assert groups is not None
    assert groups[0] == groups[2] != groups[1]


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ((-1, 0), ValueError, "val_size=-1"),
        ((0, -0.5), ValueError, "test_size=-0.5"),
        ((0, 1.0), ValueError, "test_size=1.0: a fraction is below 1"),
        ((900, 897), UserError, "leave none to train on"),
        ((0, 1790), UserError, "leave a class without a training sample"),
        ((0.5, 0.5), UserError, "test_size=898, val_size=898 of 1797 samples leave a class"),
    ],
)
def test_impossible_sizes_are_named(digits, sizes, error, message):
    with pytest.raises(error, match=message):
        split(digits, *sizes)


def test_a_class_too_small_for_the_parts_is_named(make_source):
    source = make_source([*range(20), 99, 99, 98], [0] * 20 + [1] * 3)
    with pytest.raises(UserError, match="class 'class1' has 2 distinct samples, too few for 3 parts"):
        split(source, 2, 2)
    assert _sizes(split(source, 0, 2))["test"] == 2


def test_a_class_that_training_lacks_is_refused(make_source):
    source = make_source(list(range(9)), [0, 0, 0, 1, 1, 1, 2, 0, 1])
    source.parts = {"train": np.arange(6), "test": np.arange(6, 9)}
    with pytest.raises(UserError, match=r"class 'class2' is in test .1 of 3 samples. but not in training"):
        check_classes(split(source, 2, 0), source)
    source.labels[6] = -1  # without a label
    check_classes(split(source, 2, 0), source)
