"""Training, validation and test parts that share no sample, not even under another name.

The part of a sample follows from its content and the seed: the distinct contents of each class are ordered by a hash of
(seed, content); the first go to the test part, the next to validation, the rest to training. New samples therefore only
move samples at the two borders.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from plcourse.console import say
from plcourse.data.protocols import Labeled
from plcourse.data.randoms import mix, stream
from plcourse.errors import UserError

PARTS = ("train", "val", "test")
_SPLIT = 0x73706C74  # makes splits independent of permutations and augmentation with the same seed
_EMPTY = np.empty(0, np.int64)


def split(
    source: Labeled, val_size: int | float = 0.1, test_size: int | float = 0.2, seed: int = 0
) -> dict[str, np.ndarray]:
    """Splits a source, stratified by label, with exact duplicates on one side.

    Each class has its proportional number of samples in each part, to within one. The sizes are met exactly as long as
    there are samples without duplicates to fill a part; if nearly all samples have duplicates, a part may be smaller by
    less than the largest set of duplicates. A source that comes with a validation or test part keeps it whatever size
    is requested; training samples that equal a sample of a kept part are left out of all parts.

    Args:
        source: what to split; its labels must be 0 or more.
        val_size: samples for validation (int), or their fraction of the samples that are split (float below 1).
        test_size: the same for the test part.
        seed: another seed gives another split.

    Returns:
        ``train``, ``val``, ``test``: sorted int64 index arrays without duplicates.

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


def check_classes(parts: dict[str, np.ndarray], source: Labeled) -> None:
    """Raises a UserError for a class that is validated or tested but not trained on; the label -1 is not a class."""
    known = np.unique(source.labels[parts["train"]])
    for part in ("val", "test"):
        labels = source.labels[parts[part]]
        lacking = labels[(labels >= 0) & ~np.isin(labels, known)]
        if len(lacking):
            name, n = source.label_names[lacking[0]], int((lacking == lacking[0]).sum())
            raise UserError(
                f"{source.name}: class '{name}' is in {part} ({n} of {len(labels)} samples) but not in training, so no "
                "model can learn it; add training samples, or leave the class out"
            )


def overlap(parts: dict[str, np.ndarray], source: Labeled) -> list[tuple[str, str, str]]:
    """The leaks between parts: (part, other part, id) for each sample of a part that another part holds too.

    Samples are compared by id and by content.
    """
    ids = np.array(source.ids, dtype=object)
    codes = np.unique(ids.astype(str), return_inverse=True)[1]
    leaks = []
    for a, b in combinations(parts, 2):
        shared = np.isin(source.hashes[parts[a]], source.hashes[parts[b]]) | np.isin(codes[parts[a]], codes[parts[b]])
        leaks += [(a, b, str(name)) for name in ids[parts[a][shared]]]
    return leaks


def training_parts(
    source: Labeled, pool: np.ndarray, train_ids: Sequence[str], val_ids: Sequence[str]
) -> dict[str, np.ndarray]:
    """The parts ``train`` and ``val`` with these ids of the pool, as sorted int64 indices; see `Splittable`."""
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
    """One number per set of equal samples, int64 [N]; None if all N differ."""
    distinct, group = np.unique(hashes, return_inverse=True)
    return None if len(distinct) == len(hashes) else group.astype(np.int64)


def _count(name: str, size: int | float, n: int) -> int:
    if size < 0:
        raise ValueError(f"{name}={size}: give a number of samples, or a fraction below 1")
    if isinstance(size, float):
        if size >= 1:
            raise ValueError(f"{name}={size}: a fraction is below 1; write a number of samples without a point")
        return round(size * n)
    return size


def _take(groups: list[np.ndarray], n: int, keep: int) -> list[np.ndarray]:
    """Removes groups with at most `n` samples in total from the list, in order, and leaves at least `keep` groups."""
    taken, left = [], []
    may_take = len(groups) - keep
    for group in groups:
        if len(group) <= n and len(taken) < may_take:
            taken.append(group)
            n -= len(group)
        else:
            left.append(group)
    groups[:] = left
    return taken


def _choose(source: Labeled, pool: np.ndarray, wanted: dict[str, int], seed: int) -> dict[str, np.ndarray]:
    """The pool divided into the wanted parts, and ``train`` for the remaining samples."""
    classes = _classes(source, pool, seed)
    asked = ", ".join(f"{part}_size={n}" for part, n in wanted.items())
    if sum(wanted.values()) >= len(pool):
        raise UserError(f"{source.name}: {asked} of {len(pool)} samples leave none to train on; make them smaller")
    for label, groups in classes.items():
        if len(groups) <= len(wanted):
            raise UserError(
                f"{source.name}: class '{source.label_names[label]}' has {len(groups)} distinct samples, "
                f"too few for {len(wanted) + 1} parts; add some, remove the class, or set a size to 0"
            )
    chosen: dict[str, np.ndarray] = {}
    for served, (part, size) in enumerate(wanted.items(), start=1):
        keep = len(wanted) + 1 - served  # one group for each part still to be served, training included
        lengths = [sorted(map(len, groups)) for groups in classes.values()]
        capacity = np.array([sum(each[: len(each) - keep]) for each in lengths])
        counts = _apportion(size, np.array(list(map(sum, lengths))), capacity)
        if counts is None:
            raise UserError(
                f"{source.name}: {asked} of {len(pool)} samples leave a class without a training sample; "
                "make them smaller"
            )
        taken: list[np.ndarray] = []
        for groups, count in zip(classes.values(), counts, strict=True):
            taken += _take(groups, count, keep)
        for groups in classes.values():  # other classes make up for a class that duplicates left short
            taken += _take(groups, size - sum(map(len, taken)), keep)
        if not taken:
            smallest = min(len(group) for groups in classes.values() for group in groups)
            raise UserError(
                f"{source.name}: {part}_size={size} is too small: equal samples stay together, and the smallest "
                f"remaining set has {smallest}"
            )
        chosen[part] = np.concatenate(taken)
    chosen["train"] = np.concatenate([group for groups in classes.values() for group in groups])
    return chosen


def _classes(source: Labeled, pool: np.ndarray, seed: int) -> dict[int, list[np.ndarray]]:
    """The sets of equal samples by label, in the order of their hashes; the label is that of the first sample."""
    hashes = source.hashes[pool]
    # a stable sort by (seed, content) puts equal samples next to each other, in their original order
    order = np.argsort(mix(hashes ^ stream(_SPLIT, seed)), kind="stable")
    starts = np.flatnonzero(np.diff(hashes[order], prepend=hashes[order[:1]] ^ np.uint64(1)))
    groups = np.split(pool[order], starts[1:])
    labels = source.labels[pool[order[starts]]]
    return {label: [groups[i] for i in np.flatnonzero(labels == label)] for label in np.unique(labels).tolist()}


def _apportion(size: int, counts: np.ndarray, capacity: np.ndarray) -> list[int] | None:
    """Divides `size` in proportion to `counts` by largest remainders; None if `size` exceeds the `capacity`."""
    if size > capacity.sum():
        return None
    ideal = size * counts / counts.sum()
    given = np.minimum(np.floor(ideal).astype(np.int64), capacity)
    while (missing := size - int(given.sum())) > 0:
        room = np.flatnonzero(given < capacity)
        neediest = room[np.argsort(given[room] - ideal[room], kind="stable")[:missing]]
        given[neediest] += 1
    return given.tolist()
