"""Checks that runs are comparable; a problem is an error or, with `--force`, a line of the output."""

from collections.abc import Sequence
from dataclasses import replace

from plcourse.errors import UserError
from plcourse.verbs.compare.cells import ScoredCell
from plcourse.verbs.compare.wording import differing_entries, first_names


class Checks:
    """Collects notes on the result and, with `force`, the problems that it overruled."""

    def __init__(self, force: bool) -> None:
        self.notes: list[str] = []
        self._force = force
        self._overruled: dict[tuple[str, str], list[str]] = {}

    def note(self, line: str) -> None:
        """Adds a remark once."""
        if line not in self.notes:
            self.notes.append(line)

    def refuse(self, problem: str, where: str, instead: str) -> None:
        """Raises a UserError or, with `force`, records the problem, the runs where it is, and what is done instead."""
        if not self._force:
            raise UserError(f"{problem} {where}; --force {instead}")
        self._overruled.setdefault((problem, instead), []).append(where)

    def leave_out(self, names: Sequence[str], problem: str) -> None:
        """Refuses runs that `--force` leaves out; does nothing without names."""
        if names:
            self.refuse(f"{len(names)} of the runs {problem}:", first_names(names), "leaves them out")

    @property
    def forced(self) -> list[str]:
        """The overruled problems, one line per kind."""
        lines = []
        for (problem, instead), where in self._overruled.items():
            more = f" (and {len(where) - 1} more)" if len(where) > 1 else ""
            lines.append(f"{problem} {where[0]}{more}: {instead}")
        return lines


def leave_out_unusable(cells: list[ScoredCell], checks: Checks) -> list[ScoredCell]:
    """Leaves out the cells that did not finish or whose data cannot be checked."""
    unfinished = [cell for cell in cells if cell.status != "finished"]
    checks.leave_out([f"{cell.name} ({cell.status})" for cell in unfinished], "did not finish")
    unknown = [cell for cell in cells if cell.status == "finished" and not cell.config]
    checks.leave_out([cell.name for cell in unknown], "have no config.yaml, so their data cannot be checked")
    reasons = {cell.folder: f"its run is {cell.status}" for cell in unfinished}
    reasons |= {cell.folder: "no config.yaml" for cell in unknown}
    return [replace(cell, left_out=reasons.get(cell.folder)) for cell in cells]


def check_alike(base: ScoredCell, cell: ScoredCell, metric: str, checks: Checks) -> None:
    """Refuses a pair that differs in data, checkpoint or number of optimizer steps."""
    found = []
    if base.data != cell.data:
        found.append(f"different data: {differing_entries(base.data, cell.data)} in")
    sizes = {key: (size, cell.sizes.get(key, size)) for key, size in base.sizes.items()}
    found += [f"different data: {key} is {one} and {other} in" for key, (one, other) in sizes.items() if one != other]
    if base.steps is None or cell.steps is None:
        unknown = base.name if base.steps is None else cell.name
        checks.note(f"{unknown} does not record its number of optimizer steps: not checked")
    elif base.steps != cell.steps:
        found.append(f"different optimizer steps: {base.steps} and {cell.steps} in")
    stage = metric.partition("/")[0]
    scored, other = base.checkpoints.get(stage), cell.checkpoints.get(stage)
    if scored != other:
        found.append(f"different checkpoints: {scored} and {other} were scored in")
    for problem in found:
        checks.refuse(problem, f"{base.name} and {cell.name}", "compares them all the same")
