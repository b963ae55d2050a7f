"""What stands against a comparison: refused with one line, or forced and said in the output."""

from collections.abc import Sequence
from dataclasses import replace

from plcourse.errors import UserError
from plcourse.verbs.compare.cells import Cell
from plcourse.verbs.compare.wording import few, what_differs


class Checks:
    """What the checks found: with `--force` what it overruled, and what a reader of the result should know.

    Args:
        force: whether to go on in spite of what a check finds.

    Attributes:
        notes: remarks on the result, each once.
    """

    def __init__(self, force: bool) -> None:
        self.notes: list[str] = []
        self._force = force
        self._overruled: dict[tuple[str, str], list[str]] = {}

    def note(self, line: str) -> None:
        """Adds a remark, unless it is there already."""
        if line not in self.notes:
            self.notes.append(line)

    def refuse(self, problem: str, where: str, instead: str) -> None:
        """Raises a UserError, or keeps what was overruled.

        Args:
            problem: what is wrong, the same words for all runs that share it.
            where: the runs.
            instead: what `--force` does.
        """
        if not self._force:
            raise UserError(f"{problem} {where}; --force {instead}")
        self._overruled.setdefault((problem, instead), []).append(where)

    def leave_out(self, names: Sequence[str], problem: str) -> None:
        """Refuses runs that `--force` leaves out; no names, no problem."""
        if names:
            self.refuse(f"{len(names)} of the runs {problem}:", few(names), "leaves them out")

    @property
    def forced(self) -> list[str]:
        """What was overruled, one line per kind."""
        lines = []
        for (problem, instead), where in self._overruled.items():
            more = f" (and {len(where) - 1} more)" if len(where) > 1 else ""
            lines.append(f"{problem} {where[0]}{more}: {instead}")
        return lines


def without_unfit(cells: list[Cell], checks: Checks) -> list[Cell]:
    """The cells, with those left out that did not finish or whose data nobody can check."""
    unfinished = [f"{cell.name} ({cell.status})" for cell in cells if cell.status != "finished"]
    checks.leave_out(unfinished, "did not finish")
    unknown = [cell.name for cell in cells if cell.status == "finished" and not cell.config]
    checks.leave_out(unknown, "have no config.yaml, so that their data cannot be checked")
    return [replace(cell, left_out=_unfit(cell)) for cell in cells]


def _unfit(cell: Cell) -> str | None:
    if cell.status != "finished":
        return f"its run is {cell.status}"
    return None if cell.config else "no config.yaml"


def check_alike(base: Cell, cell: Cell, metric: str, checks: Checks) -> None:
    """Refuses a pair with other data, another checkpoint or another number of optimizer steps."""
    found = []
    if base.data != cell.data:
        found.append(f"different data: {what_differs(base.data, cell.data)} in")
    sizes = {key: (size, cell.sizes.get(key, size)) for key, size in base.sizes.items()}
    found += [f"different data: {key} is {one} and {other} in" for key, (one, other) in sizes.items() if one != other]
    if base.steps is None or cell.steps is None:
        unknown = base.name if base.steps is None else cell.name
        checks.note(f"{unknown} does not say how many optimizer steps it took: not checked")
    elif base.steps != cell.steps:
        found.append(f"different optimizer steps: {base.steps} and {cell.steps} in")
    stage = metric.partition("/")[0]
    scored, other = base.checkpoints.get(stage), cell.checkpoints.get(stage)
    if scored != other:
        found.append(f"different checkpoints: {scored} and {other} were scored in")
    for problem in found:
        checks.refuse(problem, f"{base.name} and {cell.name}", "compares them all the same")
