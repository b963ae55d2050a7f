"""Pairs the cells of an arm and the baseline, and tests their differences."""

from collections.abc import Hashable, Iterable, Sequence
from statistics import fmean

from plcourse.errors import UserError
from plcourse.stats.intervals import within_difference
from plcourse.stats.significance import corrected_resampled_t_test, paired_t_test
from plcourse.verbs.compare.cells import ScoredCell, as_key
from plcourse.verbs.compare.checks import Checks
from plcourse.verbs.compare.result import ArmTest
from plcourse.verbs.compare.wording import differing_entries

Pair = tuple[ScoredCell, ScoredCell]  # the baseline's cell and the arm's


def pair(baseline: list[ScoredCell], arm: list[ScoredCell], checks: Checks) -> list[Pair]:
    """Pairs cells of the same seed, fold and split; with `--force` also of another split, if only one fits."""
    partners = {(cell.place, cell.resample): cell for cell in baseline}
    own, others = _by_place(arm), _by_place(baseline)
    pairs = []
    for cell in arm:
        base = partners.get((cell.place, cell.resample))
        ours, theirs = own[cell.place], others.get(cell.place, [])
        if base is None and theirs and not {c.resample for c in ours} & {c.resample for c in theirs}:
            problem = f"different splits: {differing_entries(theirs[0].split, cell.split)} in"
            checks.refuse(problem, f"{theirs[0].name} and {cell.name}", "pairs them by seed and fold alone")
            base = theirs[0] if len(ours) == len(theirs) == 1 else None
        if base is not None:
            pairs.append((base, cell))
    return pairs


def _by_place(cells: list[ScoredCell]) -> dict[Hashable, list[ScoredCell]]:
    found: dict[Hashable, list[ScoredCell]] = {}
    for cell in cells:
        found.setdefault(cell.place, []).append(cell)
    return found


def unit_of(bases: Sequence[ScoredCell]) -> str:
    """What varies between the pairs, by their baseline's cells: `seed`, `fold`, `split` or `fold of a split`."""
    folds, splits = {cell.fold for cell in bases}, {as_key(cell.split) for cell in bases}
    if len(splits) <= 1:
        return "fold" if len(folds) > 1 else "seed"
    return "fold of a split" if len(folds) > 1 else "split"


def size_ratio(bases: Sequence[ScoredCell], metric: str, n_train: int | None, n_test: int | None) -> tuple[float, str]:
    """Finds n_test / n_train of one fold or split, and says where it is from; sizes given by the user win.

    Raises:
        UserError: the sizes are unknown.
    """
    if n_train and n_test:
        return n_test / n_train, "from --n_train and --n_test"
    stage = "val" if metric.startswith("val/") else "test"
    sizes = [cell.sizes for cell in bases]
    if all(size.get("n_train") and size.get(f"n_{stage}") for size in sizes):
        return fmean(size[f"n_{stage}"] / size["n_train"] for size in sizes), "from the sizes that the runs record"
    folds = {cell.fold for cell in bases}
    if folds != {None} and stage == "val":
        known = bases[0].split.get("n_splits")
        k = known if isinstance(known, int) else len(folds)
        if k > 1:
            return 1 / (k - 1), f"1/(k - 1) for {k} folds"
    fractions = [cell.split.get(key) for cell in bases for key in ("val_size", "test_size")]
    if folds == {None} and all(isinstance(fraction, float) and 0 < fraction < 1 for fraction in fractions):
        val, test = bases[0].split["val_size"], bases[0].split["test_size"]
        if val + test < 1:
            return (val if stage == "val" else test) / (1 - val - test), "from val_size and test_size"
    raise UserError(
        "folds and splits need the corrected test, which takes the sizes of the training and test part; these runs do "
        "not record them: give --n_train N and --n_test N, the samples of one split"
    )


def paired_test(
    baseline: str, arm: str, pairs: list[Pair], ratio: float | None, alpha: float, checks: Checks, metric: str
) -> ArmTest:
    """Tests arm - baseline; `add_verdicts` adds the adjusted p-value and the verdict.

    `ratio` is n_test / n_train where folds or splits vary, None for seeds. The interval is cut to the range of the
    metric's differences.
    """
    groups: dict[Hashable, list[Pair]] = {}
    for base, cell in pairs:
        groups.setdefault(base.place if ratio is None else base.resample, []).append((base, cell))
    if len(groups) < len(pairs):
        checks.note("several seeds of one fold or split are averaged first: they share its samples")
    before = [_mean_value(base for base, _ in group) for group in groups.values()]
    after = [_mean_value(cell for _, cell in group) for group in groups.values()]
    naive = paired_t_test(after, before, 1 - alpha)
    result = naive if ratio is None else corrected_resampled_t_test(after, before, ratio, 1 - alpha)
    low, high = within_difference(metric, result.low, result.high)
    return ArmTest(
        **{**vars(result), "low": low, "high": high},
        arm=arm,
        baseline=baseline,
        pairs=len(pairs),
        baseline_mean=fmean(before) if before else None,
        arm_mean=fmean(after) if after else None,
        differences=[b - a for a, b in zip(before, after, strict=True)],
        test_train_ratio=ratio,
        p_naive=None if ratio is None else naive.p,
    )


def _mean_value(cells: Iterable[ScoredCell]) -> float:
    return fmean(cell.value for cell in cells if cell.value is not None)
