"""A sweep is a folder of runs: `sweep.json` says which cells there are and how far each is.

`<root>/sweeps/<name>/<YYYYMMDD-HHMMSS>[-n]/` holds `sweep.json` and `cells/<arm>/seed<n>-<grid>/`, each of which is a
run like any other (`plcourse test --run`, `plcourse fit -c .../config.yaml`), with what it printed in `log.txt`. All
configs are written, complete, before the first cell runs: what is edited later changes no cell. No torch here.
"""

import os
import re
import shlex
import shutil
import sys
import time
from pathlib import Path
from statistics import fmean
from typing import Any, TextIO

from plcourse.console.layout import aligned, broken, flowed, width
from plcourse.errors import RunFailed, UserError, nearest
from plcourse.files import write_json
from plcourse.runs.configs import find_config
from plcourse.runs.environment import environment
from plcourse.runs.folders import latest_folder, new_folder
from plcourse.runs.record import SCHEMA, read_record, status_of, timestamp
from plcourse.runs.run import SWEEPS, Run
from plcourse.runs.variants import evaluations
from plcourse.verbs.sweep.plan import LATEST, Plan, cell_label, grid_label

RECORD = "sweep.json"
LOG = "log.txt"
REDRAW_SECONDS = 0.25
_SEED = re.compile(r"^seed_everything: .*$", re.MULTILINE)
_DYING = 5.0  # seconds; longer only in a hung driver or file system
_TAIL = 4096  # bytes of a log in which its last line is looked for


class Sweep:
    """One sweep's folder.

    Args:
        path: the folder.
        root: the runs' root.
    """

    def __init__(self, path: str | Path, root: str | Path) -> None:
        self.path, self.root = Path(path), Path(root)
        self.record: dict[str, Any] = read_record(self.path / RECORD)

    @classmethod
    def create(cls, plan: Plan, resolved: list[dict[str, Any]], root: Path, threads: int) -> "Sweep":
        """Makes the folder with every cell in it, each yet to begin.

        Args:
            plan: what to do.
            resolved: for every arm and point, in the order of `arms_and_points`: `config`, the complete YAML text, and
                `processes`, how many it takes.
            root: the runs' root.
            threads: what every process of one cell gets.

        Raises:
            UserError: the folder cannot be made.
        """
        parent = root / SWEEPS / plan.name
        cells = plan.cells()
        found = dict(zip(map(_key, arms_and_points(plan)), resolved, strict=True))
        configs = {arm.name: arm.config for arm in plan.arms}
        try:
            with new_folder(parent) as path:
                for cell in cells:
                    parts = found[_key((cell["arm"], cell["grid"]))]
                    cell["processes"] = parts["processes"]
                    _plan_run(path, cell, parts["config"], configs[cell["arm"]])
                write_json(path / RECORD, {**_first_record(plan), "threads": threads, "cells": cells})
        except OSError as error:
            raise UserError(f"cannot make a sweep in '{parent}': {error.strerror}; --runs_root is elsewhere") from error
        return cls(path, root)

    @classmethod
    def load(cls, name: str, root: Path) -> "Sweep":
        """Opens a sweep by its folder, by its name (its latest), or, as `latest`, the newest of all.

        Raises:
            UserError: there is none, with the nearest name.
        """
        parents = sorted(path for path in (root / SWEEPS).glob("*") if path.is_dir())
        newest = [folder for parent in parents if (folder := latest_folder(parent, RECORD))]
        if name == LATEST:
            if not newest:
                raise UserError(f"there is no sweep in '{root}' to resume; `plcourse sweep -c SWEEP` starts one")
            return cls(max(newest, key=lambda folder: folder.name), root)
        for candidate in (Path(name), root / name, root / SWEEPS / name):
            if (candidate / RECORD).is_file():
                return cls(candidate, root)
            parent = candidate.parent if candidate.name == LATEST else candidate
            if folder := latest_folder(parent, RECORD):
                return cls(folder, root)
        known = [parent.name for parent in parents]
        hint = nearest(name.removeprefix(f"{SWEEPS}/"), known) or (f"; there are {', '.join(known)}" if known else "")
        raise UserError(f"no sweep {name!r} in '{root}'{hint}")

    @property
    def cells(self) -> list[dict[str, Any]]:
        """The cells as `sweep.json` lists them."""
        return self.record["cells"]

    @property
    def status(self) -> str:
        """As of `Run.status`: `running` only while its process lives, else `killed`."""
        return status_of(self.record)

    def run(self, cell: dict[str, Any]) -> Run:
        """The run of a cell."""
        return Run(self.path / cell["run"], self.root)

    def update(self, cell: dict[str, Any] | None = None, **fields: Any) -> None:
        """Changes fields of one cell, or of the sweep, on disk.

        Raises:
            RunFailed: the file cannot be written; the old one is intact.
        """
        (self.record if cell is None else cell).update(fields)
        write_json(self.path / RECORD, self.record)

    def reopen(self, plan: Plan | None) -> list[dict[str, Any]]:
        """Prepares the sweep to go on in this process; the cells that are still to be run.

        Args:
            plan: what the command asks for; None where it only says to resume.

        Raises:
            UserError: the sweep runs elsewhere, or the plan is another one.
        """
        if self.status == "running" and self.record.get("pid") != os.getpid():
            raise UserError(f"sweep '{self.path}' is still running (process {self.record.get('pid')})")
        if plan is not None:
            self._check_same(plan)
        deadline = time.monotonic() + _DYING
        for cell in self.cells:
            if cell["status"] == "finished":
                continue
            run = self.run(cell)
            while run.status == "running" and time.monotonic() < deadline:
                time.sleep(0.05)  # a killed worker takes a moment to be gone
            if run.status == "finished":  # and the sweep was killed before this file said so
                cell.update(status="finished", error=None, seconds=run.record.get("seconds"))
            else:
                cell.update(status="pending", error=None)
        self.update(**environment(), status="running", ended=None)
        return [cell for cell in self.cells if cell["status"] != "finished"]

    def close(self, stopped: bool) -> None:
        """Records the end: `interrupted`, or `finished` where every cell is, else `failed`."""
        for cell in self.cells:
            if cell["status"] == "running":
                cell["status"] = "interrupted"
        finished = all(cell["status"] == "finished" for cell in self.cells)
        status = "finished" if finished else "interrupted" if stopped else "failed"
        self.update(status=status, ended=timestamp())

    def score(self, cell: dict[str, Any]) -> tuple[str, float] | None:
        """The name and value of a finished cell's score: the sweep's metric, else what its checkpoint monitored.

        A metric comes from the evaluation of its stage, else from the table, as it was at the best checkpoint. None
        where the cell has no such score.
        """
        metric, run = self.record.get("metric"), self.run(cell)
        if cell["status"] != "finished":
            return None
        try:
            best = run.record.get("best") or {}
            if metric is None:
                return (best["metric"], best["value"]) if best.get("metric") else None
            name = metric["name"]
            stage = name.partition("/")[0]
            if (run.path / "eval" / f"{stage}.json").is_file():
                return name, run.eval(stage)["metrics"][name]
            if best.get("metric") == name:
                return name, best["value"]
            until = best.get("step", float("inf"))  # steps done; the table counts them from 0
            values = [row["value"] for row in run.metrics if row["metric"] == name and row["step"] < until]
            return (name, values[-1]) if values else None
        except (UserError, KeyError):  # removed by hand, or a metric that nobody logs
            return None

    def scores(self, cell: dict[str, Any]) -> list[str]:
        """The names of the scores that a cell has."""
        run = self.run(cell)
        evaluated = [name for each in evaluations(run) if not each.is_variant for name in each.metrics]
        return sorted({*evaluated, *(row["metric"] for row in run.metrics)})

    def _check_same(self, plan: Plan) -> None:
        asked = _first_record(plan)
        for key in ("arms", "configs", "seeds", "grid", "overrides", "then"):
            if asked[key] != self.record.get(key):
                raise UserError(
                    f"sweep '{self.path}' was made with other {key} than this command; to go on with it as it is: "
                    f"plcourse sweep --resume {shlex.quote(str(self.path))}"
                )


def arms_and_points(plan: Plan) -> list[tuple[str, dict[str, Any]]]:
    """The name of every arm with every point of the grid: what differs by more than the seed."""
    return [(arm.name, point) for arm in plan.arms for point in plan.points()]


def _key(pair: tuple[str, dict[str, Any]]) -> str:
    return f"{pair[0]} {pair[1]!r}"


def _first_record(plan: Plan) -> dict[str, Any]:
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
        "trust": list(plan.trust),
        **environment(),
    }


def _plan_run(sweep: Path, cell: dict[str, Any], config: str, name: str) -> None:
    """The folder of a run that `plcourse fit --run` has yet to begin."""
    folder = sweep / cell["run"]
    folder.mkdir(parents=True)
    text, count = _SEED.subn(f"seed_everything: {cell['seed']}", config)
    assert count == 1, "a resolved config has one seed"
    (folder / "config.yaml").write_text(text)
    record = {
        "schema": SCHEMA,
        "status": "pending",
        "verb": "fit",
        "config": find_config(name).run_name,
        "created": timestamp(),
        "started": None,
        "ended": None,
        "seconds": None,
        "seed": cell["seed"],
        "best": None,
        "error": None,
        "sweep": {"arm": cell["arm"], "grid": cell["grid"]},
    }
    write_json(folder / "run.json", record)


class Screen:
    """Shows how a sweep goes: a line per finished cell, and on a terminal a table below that is redrawn.

    Args:
        sweep: the sweep.
        stream: where to; standard output when None.
    """

    def __init__(self, sweep: Sweep, stream: TextIO | None = None) -> None:
        self._sweep = sweep
        self._stream = stream or sys.stdout
        self._live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._drawn = 0
        self._next = 0.0
        self._since: dict[str, float] = {}
        self._complained = False

    def started(self, cell: dict[str, Any]) -> None:
        """Notes when a cell began."""
        self._since[cell["run"]] = time.monotonic()

    def ended(self, cell: dict[str, Any]) -> None:
        """Says how a cell ended."""
        done = sum(known["status"] in ("finished", "failed") for known in self._sweep.cells)
        self.say(f"{done}/{len(self._sweep.cells)} {cell_line(self._sweep, cell)}")
        metric = self._sweep.record["metric"]
        if cell["status"] == "finished" and metric and not self._sweep.score(cell) and not self._complained:
            self._complained = True
            known = self._sweep.scores(cell)
            hint = nearest(metric["name"], known) or f"; it has {', '.join(known)}"
            self.say(f"this run has no {metric['name']}{hint}")

    def say(self, line: str) -> None:
        """Prints a line above the table."""
        self._erase()
        self._stream.write(f"{line}\n")
        self._stream.flush()
        self._next = 0.0

    def redraw(self) -> None:
        """Draws the table anew, a few times a second at most, where there is a terminal."""
        if not self._live or (now := time.monotonic()) < self._next:
            return
        self._next = now + REDRAW_SECONDS
        columns, height = shutil.get_terminal_size()
        cells = [*self._running(now, columns - 1), "", *summary(self._sweep, columns - 1)]
        lines = [part[: columns - 1] for line in cells for part in broken(line, columns - 1)][: max(1, height - 2)]
        self._erase()
        self._stream.write("".join(f"{line}\n" for line in lines))
        self._stream.flush()
        self._drawn = len(lines)

    def close(self) -> None:
        """Takes the table away."""
        self._erase()
        self._live = False

    def _erase(self) -> None:
        if self._drawn:
            self._stream.write(f"\x1b[{self._drawn}A\x1b[J")  # so many lines up, then clear to the end of the screen
            self._drawn = 0

    def _running(self, now: float, columns: int) -> list[str]:
        rows = []
        for cell in self._sweep.cells:
            if cell["status"] == "running":
                seconds = now - self._since.get(cell["run"], now)
                line = _last_line(self._sweep.path / cell["run"] / LOG)
                rows += flowed(["running", cell_label(cell), f"{seconds:.0f} s", *re.split(r"\s{2,}", line)], columns)
        return rows


def cell_line(sweep: Sweep, cell: dict[str, Any]) -> str:
    """One cell in one line: what it is, its score or its error, its time."""
    score = sweep.score(cell)
    if cell["status"] == "failed":
        what = f"failed: {cell['error']}"
    elif score is None:
        what = cell["status"]
    else:
        what = f"{score[0]} {score[1]:.4g}"
    seconds = "" if cell["seconds"] is None else f"  {cell['seconds']:.1f} s"
    return f"{cell_label(cell)}  {what}{seconds}"


def summary(sweep: Sweep, columns: int | None = None) -> list[str]:
    """The table of arms and points of the grid: how many cells of each are done, and the mean of their scores.

    Args:
        sweep: the sweep.
        columns: the width that there is; None as standard output has it.
    """
    limit = columns or width()
    rows: list[tuple[str, ...]] = []
    groups: dict[str, list[dict[str, Any]]] = {}
    for cell in sweep.cells:
        groups.setdefault(f"{cell['arm']}  {grid_label(cell['grid'])}".rstrip(), []).append(cell)
    for name, cells in groups.items():
        counts = {status: sum(cell["status"] == status for cell in cells) for status in ("running", "failed")}
        finished = sum(cell["status"] == "finished" for cell in cells)
        more = "".join(f", {count} {status}" for status, count in counts.items() if count)
        scores = [score for cell in cells if (score := sweep.score(cell))]
        spread = ""
        if scores:
            values = [value for _, value in scores]
            spread = f"{scores[0][0]}  mean {fmean(values):.4g}"
            if len(values) > 1:
                spread += f"  ({min(values):.4g} to {max(values):.4g})"
        rows.append((name, f"{finished}/{len(cells)} finished{more}", spread))
    lines = aligned(rows)
    if limit is None or max(map(len, lines)) <= limit:
        return lines
    return [line for row in rows for line in flowed([part for part in row if part], limit)]


def failures(sweep: Sweep) -> RunFailed | None:
    """The error to end with where cells failed or were cut short, one line; None where all finished."""
    unfinished = [cell for cell in sweep.cells if cell["status"] != "finished"]
    if not unfinished:
        return None
    first = unfinished[0]
    return RunFailed(
        f"{len(unfinished)} of {len(sweep.cells)} cells failed; the first: {cell_label(first)}: "
        f"{first['error'] or first['status']} (see {sweep.path / first['run'] / LOG})"
    )


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
