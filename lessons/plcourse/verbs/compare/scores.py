"""Chooses the score of each run that is compared, and which way is better."""

import math
import shlex
from collections.abc import Iterable
from dataclasses import replace

from plcourse.errors import UserError, nearest
from plcourse.runs.config_yaml import lookup
from plcourse.runs.variants import mode_of
from plcourse.verbs.compare.cells import ScoredCell
from plcourse.verbs.compare.checks import Checks
from plcourse.verbs.compare.wording import first_names

# What the scores of each source mean, by the key of `ScoredCell.scores`, most trustworthy first.
SOURCES = {
    "eval": "each value is the score of the run's evaluation",
    "best": "each value is the run's best, which was selected by this score and so is optimistic",
    "last": "each value is the last one in the run's metrics.csv",
}


def metric_names(cells: Iterable[ScoredCell]) -> list[str]:
    """Returns the metrics of all runs, test metrics first."""
    names = {name for cell in cells for found in cell.scores.values() for name in found}
    return sorted(names, key=lambda name: (not name.startswith("test/"), not name.startswith("val/"), name))


def with_values(cells: list[ScoredCell], metric: str, checks: Checks) -> tuple[list[ScoredCell], str]:
    """Chooses every cell's value from the source that most of the cells have; returns the cells and the source."""
    there = [cell for cell in cells if not cell.left_out]
    holders = {source: sum(metric in cell.scores[source] for cell in there) for source in SOURCES}
    if not any(holders.values()):
        raise UserError(_no_metric(metric, there))
    source = max(holders, key=holders.__getitem__)
    lacking = [cell.name for cell in there if metric not in cell.scores[source]]
    places = {"eval": f"in eval/{metric.partition('/')[0]}.json", "best": "as its best", "last": "in metrics.csv"}
    checks.leave_out(lacking, f"have no {metric} {places[source]}")
    return [cell if cell.left_out else _with_value(cell, metric, source, checks) for cell in cells], source


def _with_value(cell: ScoredCell, metric: str, source: str, checks: Checks) -> ScoredCell:
    if metric not in cell.scores[source]:
        return replace(cell, left_out=f"no {metric}")
    value = cell.scores[source][metric]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{metric} of {cell.name} is {value!r}, not a number")
    if math.isfinite(value):
        return replace(cell, value=float(value))
    checks.refuse(f"{metric} is {value} in", cell.name, "leaves it out, which favors an arm that diverges")
    return replace(cell, left_out=f"{metric} is {value}")


def _no_metric(metric: str, cells: list[ScoredCell]) -> str:
    if not cells:
        return "none of the runs can be used: nothing to compare"
    names = metric_names(cells)
    known = f"known are {first_names(names, 8)}{nearest(metric, names)}" if names else "these runs have no scores"
    if metric.startswith("test/") and not any(name.startswith("test/") for name in names):
        known += f"; `plcourse test --run {shlex.quote(str(cells[0].folder))}` computes those of test"
    return f"no run has the metric {metric!r}; {known}"


def guess_mode(metric: str, cells: Iterable[ScoredCell]) -> str:
    """Returns `max` or `min`: the mode of a checkpoint that monitors the metric, else a guess by its name."""
    for cell in cells:
        callbacks = lookup(cell.config, "trainer.callbacks")
        for callback in callbacks if isinstance(callbacks, list) else []:
            mode = lookup(callback, "init_args.mode")
            if lookup(callback, "init_args.monitor") == metric and mode in ("min", "max"):
                return mode
    if mode := mode_of(metric):
        return mode
    raise UserError(f"is a larger {metric} better? give --mode max or --mode min")
