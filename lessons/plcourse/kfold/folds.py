"""Splits the samples into folds exactly as scikit-learn's splitters do.

    KFold, StratifiedKFold, GroupKFold, StratifiedGroupKFold        one repeat, ``shuffle=True``
    RepeatedKFold, RepeatedStratifiedKFold                          several repeats

One generator, seeded with ``random_state``, shuffles all repeats in turn, as in scikit-learn's Repeated* classes. The
first repeat equals that of the plain splitters with the same ``random_state``.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
import pytorch_lightning as pl
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

from plcourse.errors import UserError


class Cut(TypedDict):
    """The arguments of `plan_folds`."""

    n_splits: int
    n_repeats: int
    stratified: bool
    groups: bool
    random_state: int


@dataclass(frozen=True)
class Fold:
    """The training samples and the held-out samples of one fold."""

    number: int  # over all repeats, from 0; the name of its folder
    repeat: int  # from 0
    train_ids: list[str]
    val_ids: list[str]

    @property
    def sizes(self) -> dict[str, int]:
        """``n_train`` and ``n_val``."""
        return {"n_train": len(self.train_ids), "n_val": len(self.val_ids)}


@dataclass(frozen=True)
class Plan:
    """All folds of all repeats of a data module."""

    folds: list[Fold]
    cut: Cut  # the arguments that give these folds
    samples: int
    fingerprint: str  # a hash of ids, labels and groups
    classes: bool  # whether the labels are classes rather than values

    @property
    def terms(self) -> dict[str, object]:
        """What determines the folds; plans with equal terms are equal."""
        return {**self.cut, "samples": self.samples, "fingerprint": self.fingerprint}

    @property
    def combine(self) -> Literal["logits", "values"]:
        """How a model's outputs become predictions of these labels."""
        return "logits" if self.classes else "values"

    def chosen(self, numbers: Sequence[int] | None) -> list[Fold]:
        """The folds with these numbers, all for None; a UserError if numbers are missing, repeated or out of range."""
        if numbers is None:
            return self.folds
        last = len(self.folds) - 1
        for number in numbers:
            if not 0 <= number <= last:
                raise UserError(f"folds contains {number}; the folds are numbered 0 to {last}")
        if not numbers or len(set(numbers)) < len(numbers):
            raise UserError(f"folds is {list(numbers)}; list each fold once, from 0 to {last}, or set it to null")
        return [self.folds[number] for number in sorted(numbers)]


def plan_folds(
    data: pl.LightningDataModule,
    n_splits: int,
    n_repeats: int = 1,
    stratified: bool | None = None,
    groups: bool | None = None,
    random_state: int = 0,
) -> Plan:
    """Splits the training and validation samples of a data module into folds.

    Args:
        data: a `plcourse.data.Splittable` that is set up; the other arguments are those of `KFoldLoop`.

    Raises:
        UserError: an argument does not fit the data, or a class of a held-out part is missing in its training part.
    """
    check_splittable(data)
    least = {"n_splits": (n_splits, 2), "n_repeats": (n_repeats, 1), "random_state": (random_state, 0)}
    for name, (value, smallest) in least.items():
        if value < smallest:
            raise UserError(f"{name} is {value}; it must be {smallest} or more")
    ids, labels, group_of = list(data.ids), np.asarray(data.labels), data.groups  # pyright: ignore[reportAttributeAccessIssue]  (checked above)
    classes = bool(np.issubdtype(labels.dtype, np.integer))
    stratified = classes if stratified is None else stratified
    if groups and group_of is None:
        raise UserError(f"groups is true, but the samples of {type(data).__name__} have no groups; remove it")
    groups = group_of is not None if groups is None else groups
    group_of = group_of if groups else None
    _check_counts(labels, group_of, n_splits, stratified, classes)
    parts = list(_cut(labels, group_of, n_splits, n_repeats, stratified, random_state))
    if classes:
        _check_classes(labels, parts)
    folds = [
        Fold(number, number // n_splits, [ids[i] for i in train.tolist()], [ids[i] for i in val.tolist()])
        for number, (train, val) in enumerate(parts)
    ]
    cut = Cut(n_splits=n_splits, n_repeats=n_repeats, stratified=stratified, groups=groups, random_state=random_state)
    return Plan(folds, cut, len(ids), _fingerprint(ids, labels, group_of), classes)


def check_splittable(data: object) -> None:
    """Raises a UserError unless a data module can be split into folds.

    It inspects the class, since the properties of the object may need a setup that comes later.
    """
    if data is None:
        raise UserError("cross-validation needs a data module, since loaders cannot be split")
    needed = ("ids", "labels", "groups", "with_split")
    lacking = [name for name in needed if not hasattr(type(data), name) and name not in vars(data)]
    if lacking:
        raise UserError(
            f"{type(data).__name__} cannot be split into folds: it has no {' and no '.join(lacking)}; "
            "see Splittable in plcourse.data"
        )


def _check_counts(
    labels: np.ndarray, groups: np.ndarray | None, n_splits: int, stratified: bool, classes: bool
) -> None:
    if len(labels) < n_splits:
        raise UserError(f"n_splits is {n_splits}; it must be at most {len(labels)}, the number of samples")
    if groups is not None and (n := len(np.unique(groups))) < n_splits:
        raise UserError(f"n_splits is {n_splits}; it must be at most {n}, the number of groups")
    if not stratified:
        return
    if not classes:
        raise UserError("stratified is true, but the labels are values, not classes; remove it")
    names, counts = np.unique(labels, return_counts=True)
    if counts.min() < n_splits:
        few = names[counts.argmin()]
        raise UserError(
            f"n_splits is {n_splits}; it must be at most {counts.min()}, the number of samples of class {few}, or set "
            "stratified to false"
        )


def _check_classes(labels: np.ndarray, parts: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for number, (train, val) in enumerate(parts):
        lacking = np.setdiff1d(labels[val], labels[train])
        if len(lacking):
            raise UserError(
                f"fold {number} holds out all samples of class {lacking[0]}, so that its model cannot learn the class: "
                "stratify the folds, use a larger n_splits, or remove the class"
            )


def _cut(
    labels: np.ndarray, groups: np.ndarray | None, n_splits: int, n_repeats: int, stratified: bool, random_state: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    if groups is None:
        splitter = StratifiedKFold if stratified else KFold
    else:
        splitter = StratifiedGroupKFold if stratified else GroupKFold
    generator = np.random.RandomState(random_state)
    for _ in range(n_repeats):
        cuts = splitter(n_splits, shuffle=True, random_state=generator)
        yield from cuts.split(np.zeros(len(labels)), labels, groups)


def _fingerprint(ids: list[str], labels: np.ndarray, groups: np.ndarray | None) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name in ids:
        digest.update(name.encode() + b"\0")
    for values in (labels, groups):
        if values is not None:
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
