"""Training, validation and test parts that share no sample, not even under another name.

A sample's place follows from its content and the seed: within each class the distinct contents are ordered by
a hash of (seed, content), the first of them are for the test, the next for validation, the rest for training.
Adding samples therefore moves only those at the two borders.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from plcourse.console import say
from plcourse.data.protocols import Labelled
from plcourse.data.randoms import mix, stream
from plcourse.errors import UserError

PARTS = ("train", "val", "test")
_SPLIT = 0x73706C74  # keeps splits independent of permutations and augmentation under the same seed
_EMPTY = np.empty(0, np.int64)


def split(
    source: Labelled, val_size: int | float = 0.1, test_size: int | float = 0.2, seed: int = 0
) -> dict[str, np.ndarray]:
    """Splits a source, stratified by label, with exact duplicates on one side.

    Each class gets its proportional share of a part, to within one sample. The sizes are met exactly as long
    as single samples are left to fill up with; where nearly every sample has a duplicate, a part may be
    smaller by less than the largest set of duplicates. A source with a validation or test part of its own
    keeps it, and the size asked for that part has no effect; its training samples that equal one of the kept
    parts are left out of all parts.

    Args:
        source: what to split; its labels must be 0 or more.
        val_size: samples for validation (int), or their share of the samples that are split (float below 1).
        test_size: the same for the test part.
        seed: another seed gives another split.

    Returns:
        ``train``, ``val``, ``test``: sorted int64 index arrays, no index twice.

    Raises:
        UserError: sizes that leave a class without a training sample, a class with too few samples, or a part smaller
            than every set of duplicates that could go into it.
        ValueError: a size that is negative, or a float of 1 or more.
    """
    own = source.parts or {}
    kept = {part: own[part] for part in ("val", "test") if part in own}
    hashes = source.hashes
    pool = own.get("train", np.arange(len(source.ids), dtype=np.int64))
    if kept:
        leaking = np.isin(hashes[pool], hashes[np.concatenate(list(kept.values()))])
        if leaking.any():
            say(f"{source.name}: {leaking.sum()} training samples equal one of val or test and are left out")
            pool = pool[~leaking]
    if "val" in kept and "test" in kept:
        in_both = np.isin(hashes[kept["val"]], hashes[kept["test"]])
        if in_both.any():
            say(f"{source.name}: {in_both.sum()} validation samples equal a test sample and are left out")
            kept["val"] = kept["val"][~in_both]
    wanted = {
        part: _count(f"{part}_size", size, len(pool))
        for part, size in (("test", test_size), ("val", val_size))
        if part not in kept
    }
    chosen = _choose(source, pool, {part: n for part, n in wanted.items() if n}, seed)
    parts = {part: np.sort(kept.get(part, chosen.get(part, _EMPTY))).astype(np.int64) for part in PARTS}
    parts["train"] = np.sort(chosen["train"])
    assert not overlap(parts, source), "a sample is in two parts"
    return parts


def check_classes(parts: dict[str, np.ndarray], source: Labelled) -> None:
    """Refuses a class that is validated or tested but not trained on: no model can know it.

    Args:
        parts: index arrays by ``train``, ``val``, ``test``.
        source: where the samples are; a label of -1 is no class.

    Raises:
        UserError: the first such class.
    """
    known = np.unique(source.labels[parts["train"]])
    for part in ("val", "test"):
        labels = source.labels[parts[part]]
        lacking = labels[(labels >= 0) & ~np.isin(labels, known)]
        if len(lacking):
            name, n = source.label_names[lacking[0]], int((lacking == lacking[0]).sum())
            raise UserError(
                f"{source.name}: class '{name}' is in {part} ({n} of {len(labels)} samples) but not in training, so no "
                "model can know it; add training samples of it, or leave it out"
            )


def overlap(parts: dict[str, np.ndarray], source: Labelled) -> list[tuple[str, str, str]]:
    """The leak check: samples of one part that are in another, by id or by content.

    Returns:
        (part, other part, id) for each sample of the first that the second holds too; empty where nothing
        leaks.
    """
    ids = np.array(source.ids, dtype=object)
    codes = np.unique(ids.astype(str), return_inverse=True)[1]
    leaks = []
    for a, b in combinations(parts, 2):
        shared = np.isin(source.hashes[parts[a]], source.hashes[parts[b]]) | np.isin(codes[parts[a]], codes[parts[b]])
        leaks += [(a, b, str(name)) for name in ids[parts[a][shared]]]
    return leaks


def training_parts(
    source: Labelled, pool: np.ndarray, train_ids: Sequence[str], val_ids: Sequence[str]
) -> dict[str, np.ndarray]:
    """Training and validation part by ids, see `Splittable.with_split`.

    Args:
        source: where the samples are.
        pool: int64, the samples that may be in one of the two parts.
        train_ids: ids of the training part.
        val_ids: ids of the validation part.

    Returns:
        ``train`` and ``val``: sorted int64 index arrays.

    Raises:
        ValueError: an id that is not of the pool, or a sample in both lists.
    """
    index_of = {source.ids[i]: i for i in pool.tolist()}
    unknown = [name for name in (*train_ids, *val_ids) if name not in index_of]
    if unknown:
        raise ValueError(f"id {unknown[0]!r} is not for training or validation: take ids from `ids`")
    parts = {
        part: np.sort(np.array([index_of[name] for name in names], np.int64))
        for part, names in (("train", train_ids), ("val", val_ids))
    }
    leaks = overlap(parts, source)
    if leaks:
        raise ValueError(f"sample {leaks[0][2]!r} is in train and val: keep the samples of a group together")
    return parts


def duplicate_groups(hashes: np.ndarray) -> np.ndarray | None:
    """One number per set of equal samples, int64 [N]; None where all N differ."""
    distinct, group = np.unique(hashes, return_inverse=True)
    return None if len(distinct) == len(hashes) else group.astype(np.int64)


def _count(name: str, size: int | float, n: int) -> int:
    if size < 0:
        raise ValueError(f"{name}={size}: give a number of samples, or a share below 1")
    if isinstance(size, float):
        if size >= 1:
            raise ValueError(f"{name}={size}: a share is below 1; write a number of samples without a point")
        return round(size * n)
    return size


@dataclass
class _Class:
    """The samples of one class: sets of equal content, in the order of their hash."""

    groups: list[np.ndarray]

    @property
    def n(self) -> int:
        return sum(map(len, self.groups))

    def take(self, n: int, keep: int) -> list[np.ndarray]:
        """Removes groups of at most `n` samples in all, in order, and leaves at least `keep` groups."""
        taken, left = [], []
        may_take = len(self.groups) - keep
        for group in self.groups:
            if len(group) <= n and len(taken) < may_take:
                taken.append(group)
                n -= len(group)
            else:
                left.append(group)
        self.groups = left
        return taken


def _choose(source: Labelled, pool: np.ndarray, wanted: dict[str, int], seed: int) -> dict[str, np.ndarray]:
    """The pool cut into the wanted parts, and ``train`` for what is left."""
    classes = _classes(source, pool, seed)
    asked = ", ".join(f"{part}_size={n}" for part, n in wanted.items())
    if sum(wanted.values()) >= len(pool):
        raise UserError(f"{source.name}: {asked} of {len(pool)} samples leave none to train on; make them smaller")
    for label, each in classes.items():
        if len(each.groups) <= len(wanted):
            raise UserError(
                f"{source.name}: class '{source.label_names[label]}' has {len(each.groups)} distinct samples, "
                f"too few for {len(wanted) + 1} parts; add some, remove the class, or set a size to 0"
            )
    chosen: dict[str, np.ndarray] = {}
    for served, (part, size) in enumerate(wanted.items(), start=1):
        keep = len(wanted) + 1 - served  # one group for each part still to be served, training included
        capacity = np.array([sum(sorted(map(len, c.groups))[: len(c.groups) - keep]) for c in classes.values()])
        shares = _apportion(size, np.array([each.n for each in classes.values()]), capacity)
        if shares is None:
            raise UserError(
                f"{source.name}: {asked} of {len(pool)} samples leave a class without a training sample; "
                "make them smaller"
            )
        taken: list[np.ndarray] = []
        for each, share in zip(classes.values(), shares, strict=True):
            taken += each.take(share, keep)
        for each in classes.values():  # what duplicates did not let a class give, others make up for
            taken += each.take(size - sum(map(len, taken)), keep)
        if not taken:
            smallest = min(len(group) for each in classes.values() for group in each.groups)
            raise UserError(
                f"{source.name}: {part}_size={size} is too small: equal samples stay together, and the smallest set "
                f"that is left has {smallest}"
            )
        chosen[part] = np.concatenate(taken)
    chosen["train"] = np.concatenate([group for each in classes.values() for group in each.groups])
    return chosen


def _classes(source: Labelled, pool: np.ndarray, seed: int) -> dict[int, _Class]:
    """The pool by label; equal samples with different labels go with the label of the first of them."""
    hashes = source.hashes[pool]
    # a stable sort by (seed, content) puts equal samples side by side, in their original order
    order = np.argsort(mix(hashes ^ stream(_SPLIT, seed)), kind="stable")
    starts = np.flatnonzero(np.diff(hashes[order], prepend=hashes[order[:1]] ^ np.uint64(1)))
    groups = np.split(pool[order], starts[1:])
    labels = source.labels[pool[order[starts]]]
    return {label: _Class([groups[i] for i in np.flatnonzero(labels == label)]) for label in np.unique(labels).tolist()}


def _apportion(size: int, counts: np.ndarray, capacity: np.ndarray) -> list[int] | None:
    """`size` in proportion to `counts` by largest remainders, within `capacity`; None if it is too small."""
    if size > capacity.sum():
        return None
    ideal = size * counts / counts.sum()
    shares = np.minimum(np.floor(ideal).astype(np.int64), capacity)
    while (missing := size - int(shares.sum())) > 0:
        room = np.flatnonzero(shares < capacity)
        neediest = room[np.argsort(shares[room] - ideal[room], kind="stable")[:missing]]
        shares[neediest] += 1
    return shares.tolist()
