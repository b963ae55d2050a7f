"""Compares arms: each with the baseline, over the pairs of cells that share seed, fold and split."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev

from plcourse.errors import UserError
from plcourse.runs.run import runs_root
from plcourse.stats.intervals import within_difference
from plcourse.stats.significance import corrected_resampled_t_test, paired_t_test
from plcourse.verbs.compare.arms import comparison_groups
from plcourse.verbs.compare.cells import ScoredCell, Settings, as_key, read_cells
from plcourse.verbs.compare.checks import Checks, check_alike, leave_out_unusable
from plcourse.verbs.compare.result import POWER, ArmSummary, ArmTest, Comparison, ComparisonResult, add_verdicts
from plcourse.verbs.compare.scores import SOURCES, guess_mode, metric_names, with_values
from plcourse.verbs.compare.wording import differing_entries, first_names, grid_line

Pair = tuple[ScoredCell, ScoredCell]  # the baseline's cell and the arm's


@dataclass(frozen=True)
class Options:
    """The flags of a comparison; see `plcourse compare -h`."""

    metric: str | None = None
    mode: str | None = None
    baseline: str | None = None
    grid_by: str | None = None
    alpha: float = 0.05
    difference: float | None = None
    n_train: int | None = None
    n_test: int | None = None
    force: bool = False


def compare_runs(inputs: Sequence[str], options: Options, root: str | None = None) -> ComparisonResult:
    """Reads runs and sweeps, given by folder or name, and compares them.

    Raises:
        UserError: nothing to compare, or, without `force`, arms whose runs differ in more than they should.
    """
    cells, hint = read_cells(inputs, runs_root(root))
    checks = Checks(options.force)
    cells = leave_out_unusable(cells, checks)
    metric = options.metric or hint.get("name")
    if metric is None:
        known = ", ".join(metric_names(cells)[:12])
        raise UserError(f"plcourse compare: which score? --metric is one of {known or 'none: no run has a score'}")
    cells, source = with_values(cells, metric, checks)
    hinted = hint.get("mode") if hint.get("name") == metric else None
    mode = options.mode or hinted or guess_mode(metric, cells)
    checks.note(f"cells are paired by seed, fold and split; differences are arm - baseline; {SOURCES[source]}")
    groups = comparison_groups(cells, options.grid_by, options.baseline)
    result = ComparisonResult(metric, mode, source, options.alpha, POWER, options.difference)
    result.comparisons = [_compare_arms(grid, group, metric, options, checks) for grid, group in groups]
    add_verdicts(result)
    result.forced, result.notes = checks.forced, checks.notes
    return result


def _compare_arms(grid: Settings, cells: list[ScoredCell], metric: str, options: Options, checks: Checks) -> Comparison:
    """Compares every arm with the baseline; the verdicts follow later, as they depend on all comparisons."""
    arms = list(dict.fromkeys(cell.arm for cell in cells))
    baseline = options.baseline or arms[0]
    if len(arms) < 2 or baseline not in arms:
        where = f" at {grid_line(grid)}" if grid else ""
        raise UserError(f"nothing to compare with{where}: the only arms there are {first_names(arms)}")
    arms.sort(key=lambda arm: arm != baseline)
    in_use = {arm: [cell for cell in cells if cell.arm == arm and not cell.left_out] for arm in arms}
    pairs = {arm: pair(in_use[baseline], in_use[arm], checks) for arm in arms[1:]}
    paired = [each for found in pairs.values() for each in found]
    for base, cell in paired:
        check_alike(base, cell, metric, checks)
    bases = [base for base, _ in paired]
    unit, ratio = _unit_of(bases), None
    if unit != "seed" and any(len(found) > 1 for found in pairs.values()):
        ratio, how = _size_ratio(bases, metric, options.n_train, options.n_test)
        checks.note(f"corrected resampled t-test with n_test/n_train = {ratio:.4g}, {how}")
    tests = [_paired_test(baseline, arm, pairs[arm], ratio, options.alpha, checks, metric) for arm in arms[1:]]
    used = {cell.folder for found in paired for cell in found}
    rows = [replace(cell, left_out=cell.left_out or (None if cell.folder in used else "no partner")) for cell in cells]
    rows.sort(key=lambda cell: arms.index(cell.arm))
    test = "paired t" if ratio is None else "corrected resampled t (Nadeau and Bengio 2003)"
    summaries = [_summary(arm, arm == baseline, rows) for arm in arms]
    return Comparison(grid or None, baseline, unit, test, ratio, summaries, tests, rows)


def _summary(arm: str, is_baseline: bool, cells: list[ScoredCell]) -> ArmSummary:
    values = [cell.value for cell in cells if cell.arm == arm and not cell.left_out and cell.value is not None]
    sd = stdev(values) if len(values) > 1 else None
    return ArmSummary(arm, is_baseline, len(values), fmean(values) if values else None, sd)


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


def _by_place(cells: Iterable[ScoredCell]) -> dict[Hashable, list[ScoredCell]]:
    found: dict[Hashable, list[ScoredCell]] = {}
    for cell in cells:
        found.setdefault(cell.place, []).append(cell)
    return found


def _unit_of(bases: Sequence[ScoredCell]) -> str:
    """What varies between the pairs, by their baseline's cells: `seed`, `fold`, `split` or `fold of a split`."""
    folds, splits = {cell.fold for cell in bases}, {as_key(cell.split) for cell in bases}
    if len(splits) <= 1:
        return "fold" if len(folds) > 1 else "seed"
    return "fold of a split" if len(folds) > 1 else "split"


def _size_ratio(bases: Sequence[ScoredCell], metric: str, n_train: int | None, n_test: int | None) -> tuple[float, str]:
    """Finds n_test / n_train of one fold or split, and says where it is from; sizes given by the user win."""
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


def _paired_test(
    baseline: str, arm: str, pairs: list[Pair], ratio: float | None, alpha: float, checks: Checks, metric: str
) -> ArmTest:
    """Tests arm - baseline; the interval is cut to the range of the metric's differences.

    `ratio` is n_test / n_train where folds or splits vary, None for seeds. `add_verdicts` adds the verdict.
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
