"""Compares arms: each with the baseline, over the pairs of cells that share seed, fold and split."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from plcourse.errors import UserError
from plcourse.runs.run import runs_root
from plcourse.verbs.compare.arms import comparison_groups
from plcourse.verbs.compare.cells import ScoredCell, read_cells
from plcourse.verbs.compare.checks import Checks, check_alike, leave_out_unusable
from plcourse.verbs.compare.pairs import pair, paired_test, size_ratio, unit_of
from plcourse.verbs.compare.result import ArmSummary, Comparison, ComparisonResult
from plcourse.verbs.compare.scores import SOURCES, guess_mode, metric_names, with_values
from plcourse.verbs.compare.verdict import POWER, add_verdicts
from plcourse.verbs.compare.wording import first_names, grid_line


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
    checks.note(f"cells are paired by seed, fold and split; differences are arm - baseline; {SOURCES[source].note}")
    groups = comparison_groups(cells, options.grid_by, options.baseline)
    result = ComparisonResult(metric, mode, source, options.alpha, POWER, options.difference)
    result.comparisons = [_compare_arms(grid, group, metric, options, checks) for grid, group in groups]
    add_verdicts(result)
    result.forced, result.notes = checks.forced, checks.notes
    return result


def _compare_arms(
    grid: dict[str, Any], cells: list[ScoredCell], metric: str, options: Options, checks: Checks
) -> Comparison:
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
    unit, ratio = unit_of(bases), None
    if unit != "seed" and any(len(found) > 1 for found in pairs.values()):
        ratio, how = size_ratio(bases, metric, options.n_train, options.n_test)
        checks.note(f"corrected resampled t-test with n_test/n_train = {ratio:.4g}, {how}")
    tests = [paired_test(baseline, arm, pairs[arm], ratio, options.alpha, checks, metric) for arm in arms[1:]]
    used = {cell.folder for found in paired for cell in found}
    rows = [replace(cell, left_out=cell.left_out or (None if cell.folder in used else "no partner")) for cell in cells]
    rows.sort(key=lambda cell: arms.index(cell.arm))
    test = "paired t" if ratio is None else "corrected resampled t (Nadeau and Bengio 2003)"
    summaries = [_summary(arm, arm == baseline, rows) for arm in arms]
    return Comparison(grid or None, baseline, unit, test, ratio, summaries, tests, rows)


def _summary(arm: str, is_baseline: bool, cells: list[ScoredCell]) -> ArmSummary:
    values = [cell.value for cell in cells if cell.arm == arm and not cell.left_out and cell.value is not None]
    mean, sd = fmean(values) if values else None, stdev(values) if len(values) > 1 else None
    return ArmSummary(arm, is_baseline, len(values), mean, sd)
