"""A sweep is a folder of runs, with `sweep.json` to record its cells and their progress. No torch.

`<root>/sweeps/<name>/<YYYYMMDD-HHMMSS>[-n]/` holds `sweep.json` and `cells/<arm>/seed<n>-<grid>/`. Each cell is an
ordinary run (`plcourse test --run` takes it) whose output is in `log.txt`. All configs are written in full before the
first cell starts, so later edits change no cell.
"""

import re
import shlex
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from plcourse.errors import RunFailed, UserError, nearest
from plcourse.files import write_json
from plcourse.runs.claim import claimed
from plcourse.runs.configs import find_config
from plcourse.runs.confinement import leaves_its_folder
from plcourse.runs.environment import environment
from plcourse.runs.folders import find_folder, new_folder
from plcourse.runs.record import SCHEMA, read_record, status_of, timestamp
from plcourse.runs.run import SWEEPS, Run, list_sweeps
from plcourse.runs.signatures import is_signed, sign
from plcourse.runs.variants import evaluations
from plcourse.verbs.sweep.plan import LATEST, SweepCell, SweepPlan

RECORD = "sweep.json"
LOG = "log.txt"
_SEED = re.compile(r"^seed_everything: .*$", re.MULTILINE)
_EXIT_SECONDS = 5.0  # for a killed worker to disappear; longer only in a hung driver or file system


class ResolvedConfig(NamedTuple):
    """The complete config of an arm at a point of the grid, as YAML, and in how many processes it trains."""

    text: str
    processes: int


class Sweep:
    """One sweep's folder; a UserError if its `sweep.json` cannot be read."""

    def __init__(self, path: str | Path, root: str | Path) -> None:
        self.path, self.root = Path(path), Path(root)
        self.record = read_record(self.path / RECORD)  # without the cells
        try:
            self.cells = [SweepCell(**entry) for entry in self.record.pop("cells")]  # in the order in which they run
        except (KeyError, TypeError) as error:
            raise UserError(f"'{self.path / RECORD}' is not the record of a sweep: {error}") from error
        if wrong := next((cell.run for cell in self.cells if leaves_its_folder(str(cell.run))), None):
            raise UserError(f"'{self.path / RECORD}' lists the run {wrong!r}, which is not in the folder of the sweep")

    @classmethod
    def create(cls, plan: SweepPlan, resolved: list[ResolvedConfig], root: Path, threads: int) -> "Sweep":
        """Makes the folder with a pending run for every cell.

        `resolved` is in the order of `plan.arms_and_points()`; `threads` are those of torch in each process.
        """
        parent = root / SWEEPS / plan.name
        cells = plan.cells()
        keys = [(arm.name, repr(point)) for arm, point in plan.arms_and_points()]
        configs = dict(zip(keys, resolved, strict=True))
        names = {arm.name: find_config(arm.config).run_name for arm in plan.arms}
        try:
            with new_folder(parent) as path:
                for cell in cells:
                    config = configs[cell.arm, repr(cell.grid)]
                    cell.processes = config.processes
                    _write_pending_run(path, cell, config.text, names[cell.arm])
                content = {**_first_record(plan), "threads": threads, "cells": [vars(cell) for cell in cells]}
                write_json(path / RECORD, content)
        except OSError as error:
            what = f"cannot make a sweep in '{parent}': {error.strerror}"
            raise UserError(f"{what}; --runs_root names another root") from error
        return cls(path, root)

    @classmethod
    def load(cls, name: str, root: Path) -> "Sweep":
        """Opens a sweep by its folder, by its name (its latest), or, as `latest`, the newest of all."""
        sweeps = list_sweeps(root)
        if name == LATEST:
            if not sweeps:
                raise UserError(f"no sweep to resume in '{root}'; `plcourse sweep -c SWEEP` starts one")
            return cls(sweeps[0], root)
        for candidate in (Path(name), root / name, root / SWEEPS / name):
            if folder := find_folder(candidate, RECORD):
                return cls(folder, root)
        known = sorted({folder.parent.name for folder in sweeps})
        hint = nearest(name.removeprefix(f"{SWEEPS}/"), known) or (f"; known are {', '.join(known)}" if known else "")
        raise UserError(f"no sweep {name!r} in '{root}'{hint}")

    @property
    def status(self) -> str:
        """Like `Run.status`: `running` while its process is alive, and `killed` once that is gone."""
        return status_of(self.record, self.path)

    def claimed(self, force: bool = False) -> AbstractContextManager[None]:
        """Keeps all other commands from running the sweep in the block; see `plcourse.runs.claim.claimed`."""
        return claimed(self.path, f"sweep '{self.path}'", self.record, force)

    @property
    def permissions(self) -> list[str]:
        """The flags that the command of the sweep gave to the cells, if this user has signed them."""
        given = self.record.get("permissions") or []
        return list(given) if is_signed({"sweep": given}, self.record.get("signature")) else []

    def run(self, cell: SweepCell) -> Run:
        """The run of a cell."""
        return Run(self.path / cell.run, self.root)

    def update(self, cell: SweepCell | None = None, **fields: object) -> None:
        """Changes fields of one cell, or of the sweep, and replaces `sweep.json`; RunFailed keeps the old one."""
        (self.record if cell is None else vars(cell)).update(fields)
        write_json(self.path / RECORD, {**self.record, "cells": [vars(each) for each in self.cells]})

    def reopen(self, plan: SweepPlan | None) -> list[SweepCell]:
        """Prepares the sweep to be resumed in this process, which has claimed it, and returns the unfinished cells.

        Raises:
            UserError: a plan is given and differs from the sweep's.
        """
        asked = self.record if plan is None else _first_record(plan)
        for key in ("arms", "configs", "seeds", "grid", "overrides", "then"):
            if asked[key] != self.record.get(key):
                remedy = f"to resume it unchanged: plcourse sweep --resume {shlex.quote(str(self.path))}"
                raise UserError(f"sweep '{self.path}' was made with other {key} than this command gives; {remedy}")
        deadline = time.monotonic() + _EXIT_SECONDS
        for cell in self.cells:
            if cell.status == "finished":
                continue
            run = self.run(cell)
            while run.status == "running" and time.monotonic() < deadline:
                time.sleep(0.05)
            cell.status, cell.error = "pending", None
            if run.status == "finished":  # the sweep was killed before it recorded this
                cell.status, cell.seconds = "finished", run.record.get("seconds")
        self.update(**environment(), status="running", ended=None)
        return [cell for cell in self.cells if cell.status != "finished"]

    def close(self, stopped: bool) -> None:
        """Records the end: `finished` if every cell is, otherwise `interrupted` or `failed`."""
        for cell in self.cells:
            if cell.status == "running":
                cell.status = "interrupted"
        finished = all(cell.status == "finished" for cell in self.cells)
        status = "finished" if finished else "interrupted" if stopped else "failed"
        self.update(status=status, ended=timestamp())

    def score(self, cell: SweepCell) -> tuple[str, float] | None:
        """The name and value of a finished cell's score: the sweep's metric, else the one its checkpoint monitors.

        A metric is read from the evaluation of its stage, else from `metrics.csv` as of the best checkpoint. None if
        the cell has no such score.
        """
        metric, run = self.record.get("metric"), self.run(cell)
        if cell.status != "finished":
            return None
        try:
            best = run.record.get("best") or {}
            name = metric["name"] if metric else best["metric"]
            stage = name.partition("/")[0]
            if metric and (run.path / "eval" / f"{stage}.json").is_file():
                return name, run.eval(stage)["metrics"][name]
            if best.get("metric") == name:
                return name, best["value"]
            until = best.get("step", float("inf"))  # a count of steps; the table numbers them from 0
            values = [row["value"] for row in run.metrics if row["metric"] == name and row["step"] < until]
            return (name, values[-1]) if values else None
        except (UserError, KeyError):  # files removed by hand, or a metric that is never logged
            return None

    def score_names(self, cell: SweepCell) -> list[str]:
        """The names of all scores that a cell has."""
        run = self.run(cell)
        evaluated = [name for each in evaluations(run) if not each.is_variant for name in each.metrics]
        return sorted({*evaluated, *(row["metric"] for row in run.metrics)})

    def failures(self) -> RunFailed | None:
        """Returns the error about cells that did not finish; None if all did."""
        unfinished = [cell for cell in self.cells if cell.status != "finished"]
        if not unfinished:
            return None
        first = unfinished[0]
        why = f"{first.label}: {first.error or first.status} (see {self.path / first.run / LOG})"
        return RunFailed(f"{len(unfinished)} of {len(self.cells)} cells failed; the first: {why}")


def _first_record(plan: SweepPlan) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "name": plan.name,
        "status": "running",
        "created": timestamp(),
        "ended": None,
        "arms": [arm.name for arm in plan.arms],
        "configs": {arm.name: {"config": arm.config, "overrides": arm.overrides} for arm in plan.arms},
        "seeds": list(plan.seeds),
        "grid": plan.grid,
        "overrides": plan.overrides,
        "then": list(plan.then),
        "metric": plan.metric,
        "permissions": list(plan.permissions),
        "signature": _signature(plan.permissions),
        **environment(),
    }


def _signature(permissions: Sequence[str]) -> str | None:
    """The user's signature of the permissions; without one, they must be given again to resume the sweep."""
    try:
        return sign({"sweep": list(permissions)}) if permissions else None
    except UserError:
        return None


def _write_pending_run(sweep: Path, cell: SweepCell, config: str, config_name: str) -> None:
    """Writes the folder of a run that `plcourse fit --run` will start."""
    folder = sweep / cell.run
    folder.mkdir(parents=True)
    text, count = _SEED.subn(f"seed_everything: {cell.seed}", config)
    assert count == 1, "a resolved config has one seed"
    (folder / "config.yaml").write_text(text)
    record = {"schema": SCHEMA, "status": "pending", "verb": "fit", "config": config_name, "created": timestamp()}
    record |= dict.fromkeys(("started", "ended", "seconds"))
    record |= {"seed": cell.seed, "best": None, "error": None, "sweep": {"arm": cell.arm, "grid": cell.grid}}
    write_json(folder / "run.json", record)
