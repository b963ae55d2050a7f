"""The folds equal those of scikit-learn, and data that cannot be split are refused in one line."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import pytest
import pytorch_lightning as pl
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    RepeatedKFold,
    RepeatedStratifiedKFold,
    StratifiedGroupKFold,
    StratifiedKFold,
)

from plcourse.errors import UserError
from plcourse.kfold.folds import plan_folds

GENERATOR = np.random.RandomState(0)
CLASSES = GENERATOR.randint(0, 3, 60)
VALUES = GENERATOR.normal(size=60)
GROUPS = GENERATOR.randint(0, 12, 60)


class Labelled(pl.LightningDataModule):
    def __init__(self, labels: np.ndarray, groups: np.ndarray | None = None) -> None:
        super().__init__()
        self.labels, self.groups = labels, groups
        self.ids = [f"s{i}" for i in range(len(labels))]

    def with_split(self, train_ids: Sequence[str], val_ids: Sequence[str]) -> Self:
        return self


@pytest.mark.parametrize("state", [0, 1, 42])
@pytest.mark.parametrize(
    ("labels", "groups", "splitter", "arguments"),
    [
        (VALUES, None, KFold, {}),
        (CLASSES, None, StratifiedKFold, {}),
        (CLASSES, None, KFold, {"stratified": False}),
        (VALUES, GROUPS, GroupKFold, {}),
        (CLASSES, GROUPS, StratifiedGroupKFold, {}),
        (CLASSES, GROUPS, StratifiedKFold, {"groups": False}),
        (VALUES, None, RepeatedKFold, {"n_repeats": 3}),
        (CLASSES, None, RepeatedStratifiedKFold, {"n_repeats": 3}),
    ],
)
def test_the_folds_are_those_of_scikit_learn(
    labels: np.ndarray, groups: np.ndarray | None, splitter: Any, arguments: dict[str, Any], state: int
) -> None:
    data, repeats = Labelled(labels, groups), arguments.get("n_repeats")
    found = plan_folds(data, n_splits=4, random_state=state, **arguments).folds
    shuffle = {"shuffle": True} if repeats is None else {"n_repeats": repeats}
    cuts = splitter(n_splits=4, random_state=state, **shuffle)
    by = groups if arguments.get("groups", True) else None
    for number, (fold, (train, val)) in enumerate(zip(found, cuts.split(labels, labels, by), strict=True)):
        assert (fold.number, fold.repeat) == (number, number // 4)
        assert fold.train_ids == [data.ids[i] for i in train]
        assert fold.val_ids == [data.ids[i] for i in val]


def test_every_sample_is_held_out_once_per_repeat_and_groups_stay_together() -> None:
    plan = plan_folds(Labelled(CLASSES, GROUPS), n_splits=4, n_repeats=3)
    for repeat in range(3):
        held_out = [name for fold in plan.folds if fold.repeat == repeat for name in fold.val_ids]
        assert sorted(held_out) == sorted(f"s{i}" for i in range(60))
    for fold in plan.folds:
        groups = [{GROUPS[int(name[1:])] for name in names} for names in (fold.train_ids, fold.val_ids)]
        assert not groups[0] & groups[1]


@pytest.mark.parametrize(
    ("data", "arguments", "message"),
    [
        (Labelled(CLASSES), {"n_splits": 1}, "n_splits is 1; it must be 2 or more"),
        (Labelled(CLASSES), {"n_splits": 5, "n_repeats": 0}, "n_repeats is 0; it must be 1 or more"),
        (Labelled(CLASSES), {"n_splits": 5, "random_state": -1}, "random_state is -1; it must be 0 or more"),
        (Labelled(VALUES[:4]), {"n_splits": 5}, "n_splits is 5; it must be at most 4, the number of samples"),
        (Labelled(np.array([0] * 9 + [1] * 3)), {"n_splits": 4}, "at most 3, the number of samples of class 1"),
        (Labelled(VALUES, GROUPS % 3), {"n_splits": 4}, "n_splits is 4; it must be at most 3, the number of groups"),
        (Labelled(VALUES), {"n_splits": 4, "stratified": True}, "the labels are values, not classes; remove it"),
        (Labelled(VALUES), {"n_splits": 4, "groups": True}, "the samples of Labelled have no groups; remove it"),
        (pl.LightningDataModule(), {"n_splits": 4}, "it has no ids and no labels and no groups and no with_split"),
    ],
)
def test_unsplittable_data_are_refused(data: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        plan_folds(data, **arguments)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [([7], "folds contains 7; the folds are numbered 0 to 3"), ([0, 0], "list each fold once"), ([], "list each")],
)
def test_invalid_fold_numbers_are_refused(numbers: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan_folds(Labelled(CLASSES), 4).chosen(numbers)


def test_the_fingerprint_depends_on_the_labels() -> None:
    plans = [plan_folds(Labelled(labels), 3).terms for labels in (CLASSES, CLASSES.copy(), np.roll(CLASSES, 1))]
    assert plans[0] == plans[1]
    assert plans[0]["fingerprint"] != plans[2]["fingerprint"]


def test_a_class_missing_in_training_is_refused() -> None:
    labels, groups = np.array([0] * 6 + [1] * 2), np.array([0, 1, 2, 0, 1, 2, 3, 3])
    with pytest.raises(UserError, match=r"fold \d holds out all samples of class 1"):
        plan_folds(Labelled(labels, groups), n_splits=2, stratified=False)
    assert len(plan_folds(Labelled(labels.astype(float), groups), n_splits=2).folds) == 2
