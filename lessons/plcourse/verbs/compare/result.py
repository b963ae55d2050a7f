"""The complete result of a comparison as plain data, which the table, the JSON file and the plot only show.

Each arm is compared with the baseline over the pairs of cells that share seed, fold and split; what has no partner is
listed and left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from plcourse.errors import UserError
from plcourse.runs.run import runs_root
from plcourse.verbs.compare.arms import comparison_groups
from plcourse.verbs.compare.cells import Cell, read_cells
from plcourse.verbs.compare.checks import Checks, check_alike, without_unfit
from plcourse.verbs.compare.scores import SOURCES, guess_mode, metric_names, with_values
from plcourse.verbs.compare.verdict import POWER, judge, pair, paired_test, size_ratio, unit_of
from plcourse.verbs.compare.wording import few, grid_line

SCHEMA = 1


@dataclass(frozen=True)
class Options:
    """What was asked for; see `plcourse compare -h`."""

    metric: str | None = None
    mode: str | None = None
    baseline: str | None = None
    grid_by: str | None = None
    alpha: float = 0.05
    difference: float | None = None
    n_train: int | None = None
    n_test: int | None = None
    force: bool = False


def build_report(inputs: Sequence[str], options: Options, root: str | None = None) -> dict[str, Any]:
    """Reads the runs and compares them.

    Args:
        inputs: folders or names of runs and sweeps.
        options: what to compare, and how.
        root: the runs' root; without it, `PLCOURSE_RUNS` or `runs`.

    Returns:
        Plain data, complete and valid JSON: `metric`, `mode`, `source`, `alpha`, `power`, `forced` (what `--force`
        overruled), `notes`, and `comparisons`, each with `grid`, `baseline`, `unit`, `test`, `arms`, `tests`
        and `cells`.

    Raises:
        UserError: nothing there, nothing to compare, or, without `force`, arms whose runs are not alike.
    """
    cells, hint = read_cells(inputs, runs_root(root))
    checks = Checks(options.force)
    cells = without_unfit(cells, checks)
    metric = options.metric or hint.get("name")
    if metric is None:
        known = ", ".join(metric_names(cells)[:12])
        raise UserError(f"plcourse compare: which score? --metric is one of {known or 'none: no run has a score'}")
    cells, source = with_values(cells, metric, checks)
    hinted = hint.get("mode") if hint.get("name") == metric else None
    mode = options.mode or hinted or guess_mode(metric, cells)
    checks.note(f"seed, fold and split pair the cells; differences are arm - baseline; {SOURCES[source].note}")
    groups = comparison_groups(cells, options.grid_by, options.baseline)
    comparisons = [_compare_arms(grid, group, metric, options, checks) for grid, group in groups]
    judge(comparisons, mode, options.alpha, options.difference)
    return {
        "schema": SCHEMA,
        "metric": metric,
        "mode": mode,
        "source": source,
        "alpha": options.alpha,
        "power": POWER,
        "difference_to_detect": options.difference,
        "forced": checks.forced,
        "notes": checks.notes,
        "comparisons": comparisons,
    }


def _compare_arms(
    grid: dict[str, Any], cells: list[Cell], metric: str, options: Options, checks: Checks
) -> dict[str, Any]:
    """Every arm against the baseline; the verdicts are still to come, as they depend on all comparisons."""
    arms = list(dict.fromkeys(cell.arm for cell in cells))
    baseline = options.baseline or arms[0]
    if len(arms) < 2 or baseline not in arms:
        where = f" at {grid_line(grid)}" if grid else ""
        raise UserError(f"nothing to compare with{where}: the only arms there are {few(arms)}")
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
    return {
        "grid": grid or None,
        "baseline": baseline,
        "unit": unit,
        "test": "paired t" if ratio is None else "corrected resampled t (Nadeau and Bengio 2003)",
        "test_train_ratio": ratio,
        "arms": [_summary(arm, baseline, rows) for arm in arms],
        "tests": tests,
        "cells": [_row(cell) for cell in rows],
    }


def _summary(arm: str, baseline: str, cells: list[Cell]) -> dict[str, Any]:
    values = [cell.value for cell in cells if cell.arm == arm and not cell.left_out and cell.value is not None]
    mean, sd = fmean(values) if values else None, stdev(values) if len(values) > 1 else None
    return {"arm": arm, "baseline": arm == baseline, "n": len(values), "mean": mean, "sd": sd}


def _row(cell: Cell) -> dict[str, Any]:
    return {
        "arm": cell.arm,
        "config": cell.config_name,
        "seed": cell.seed,
        "fold": cell.fold,
        "split": cell.split,
        "grid": cell.grid,
        "value": cell.value,
        "steps": cell.steps,
        "status": cell.status,
        "used": cell.left_out is None,
        "left_out": cell.left_out,
        "run": str(cell.folder) if cell.folder.is_dir() else None,
    }
