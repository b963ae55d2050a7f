"""A run is a folder: what was asked for, how it went, and everything it wrote.

`<root>/<lesson>/<variant>/<YYYYMMDD-HHMMSS>[-n]/` holds `run.json`, `config.yaml`, `metrics.csv`,
`checkpoints/`, `eval/` and `predictions/`; the link `latest` beside it points to the newest. No run
overwrites another, and a reader never sees half of a `run.json`. This module only looks and keeps records; it
never imports torch.
"""

import contextlib
import csv
import io
import json
import os
import re
import shlex
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from plcourse.errors import UserError, nearest
from plcourse.files import folders, locked, write_json
from plcourse.runs.configs import own_name
from plcourse.runs.environment import environment
from plcourse.runs.folders import STAMP, age_key, find_folder, new_folder
from plcourse.runs.record import STATUSES, first_record, read_record, status_of, timestamp

OUT_OF_FOLD = "out_of_fold.parquet"  # what a cross-validated fit writes into predictions/
SWEEPS = "sweeps"  # the folder below the root that holds sweeps, each with many runs
BENCHMARKS = "benchmarks"  # the one that holds what `plcourse benchmark` measured


class Run:
    """The record of one run: its folder, and what is in it. `plcourse.Run` adds the verbs that evaluate it.

    Args:
        path: the folder.
        root: the runs' root that its name is relative to; without it the name is the path.

    Attributes:
        variant: the name of the evaluation that the command which gave this run has made; see
            `plcourse.training.variant`. Empty for that of the run as it was trained.
    """

    variant = ""

    def __init__(self, path: str | Path, root: str | Path | None = None) -> None:
        self.path = Path(path)
        self._root = None if root is None else Path(root)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @classmethod
    def create(cls, config_name: str, root: str | Path, record: dict[str, Any]) -> Self:
        """Makes a new folder with its `run.json`, then points `latest` at it.

        Args:
            config_name: `<lesson>/<variant>`; of anything else the last part goes below `own/`.
            root: the runs' root.
            record: fields of `run.json` beside the ones filled in here, such as `verb` and `seed`. A
                dictionary (`hardware`, `versions`) adds to what is filled in.

        Raises:
            UserError: the folder cannot be made.
            RunFailed: `run.json` cannot be written.
        """
        parent = Path(root) / _folder_name(config_name)
        fields = first_record(config_name, record)
        try:
            with new_folder(parent) as path:
                write_json(path / "run.json", fields)
        except OSError as error:
            raise UserError(
                f"cannot make a run folder in '{parent}': {error.strerror}; --runs_root names another root"
            ) from error
        return cls(path, root)

    @classmethod
    def load(cls, path_or_name: str | Path, root: str | Path | None = None) -> Self:
        """Opens a run by its folder or by its name below the runs' root.

        Args:
            path_or_name: a folder, `ddp/two_processes/20261123-101500`, `ddp/two_processes/latest`, or
                `ddp/two_processes`, which means its latest.
            root: the runs' root; without it, `PLCOURSE_RUNS` or `runs`.

        Raises:
            UserError: no such run, with the nearest or the most recent ones.
        """
        base = runs_root(root)
        name = str(path_or_name)
        for candidate in (Path(name), base / name):
            folder = find_folder(candidate)
            if folder is not None:
                return cls(folder, base)
        raise UserError(_missing_message(name, base))

    @property
    def name(self) -> str:
        """`<lesson>/<variant>/<time>` below its root, the whole path of a run that lies elsewhere."""
        path = self.path.resolve()
        root = self._root.resolve() if self._root is not None else None
        return path.relative_to(root).as_posix() if root is not None and path.is_relative_to(root) else str(path)

    @property
    def root(self) -> Path | None:
        """The root of the runs, None where it is not known."""
        return self._root

    @property
    def record(self) -> dict[str, Any]:
        """What `run.json` says now.

        Raises:
            UserError: the file is missing, not JSON, or of a newer plcourse.
        """
        return read_record(self.path / "run.json")

    @property
    def status(self) -> str:
        """`running`, `finished`, `failed` or `interrupted` as recorded.

        Beyond these `killed`: recorded as running by a process of this machine that is gone; and
        `unreadable`: no usable `run.json`.
        """
        try:
            return status_of(self.record)
        except UserError:
            return "unreadable"

    @property
    def config_path(self) -> Path:
        """The complete, resolved config."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The rows of `metrics.csv` (`step`, `epoch`, `metric`, `value`), empty before the first is written.

        A last row that a kill cut short is left out.

        Raises:
            UserError: any other row that is not of this form, with its line.
        """
        file = self.path / "metrics.csv"
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read '{file}': {error}") from error
        whole = text[: text.rfind("\n") + 1]
        rows: list[dict[str, Any]] = []
        reader = csv.DictReader(io.StringIO(whole, newline=""))
        while True:
            row = None
            try:
                if (row := next(reader, None)) is None:
                    return rows
                rows.append(
                    {
                        "step": int(row["step"]),
                        "epoch": int(row["epoch"]),
                        "metric": row["metric"],
                        "value": float(row["value"]),
                    }
                )
            except (KeyError, TypeError, ValueError, csv.Error) as error:
                line = len(rows) + 2
                what = str(error) if row is None else str(row)[:200]
                raise UserError(f"{file}:{line}: not a row of step, epoch, metric, value: {what}") from error

    @property
    def predictions(self) -> list[Path]:
        """The Parquet files that `predict` wrote, in the order of their names; not those of a cross-validated fit."""
        found = (self.path / "predictions").glob("*.parquet")
        return sorted(path for path in found if path.name != OUT_OF_FOLD)

    def eval(self, split: str) -> dict[str, Any]:
        """What `eval/<split>.json` holds, for example `eval("test")["metrics"]["test/accuracy"]`.

        Raises:
            UserError: this split was not evaluated, or the file is broken.
        """
        file = self.path / "eval" / f"{split}.json"
        if not file.is_file():
            known = sorted(path.stem for path in (self.path / "eval").glob("*.json"))
            there = (
                f"it has {', '.join(known)}"
                if known
                else f"`plcourse test --run {shlex.quote(str(self.path))}` makes one"
            )
            raise UserError(f"run {self.name} has no evaluation {split!r}; {there}{nearest(split, known)}")
        try:
            evaluation = json.loads(file.read_bytes())
        except (ValueError, RecursionError) as error:
            raise UserError(f"'{file}' is not valid JSON: {error}") from error
        if not isinstance(evaluation, dict):
            raise UserError(f"'{file}' is not an evaluation: it holds a {type(evaluation).__name__}, not an object")
        return evaluation

    def checkpoint(self, which: str | Path = "best") -> Path:
        """The file of a checkpoint.

        Args:
            which: `best`, `last`, another file's name in `checkpoints/`, or a path.

        Raises:
            UserError: there is none, with those that there are.
        """
        folder = self.path / "checkpoints"
        name = str(which)
        elsewhere = [] if name in ("best", "last") else [Path(name)]
        for candidate in (folder / f"{name}.ckpt", folder / name, *elsewhere):
            if candidate.is_file():
                return candidate
        known = sorted(path.stem for path in folder.glob("*.ckpt"))
        there = f"it has {', '.join(known)}" if known else f"it has none (status: {self.status})"
        raise UserError(f"run {self.name} has no checkpoint {name!r}; {there}")

    def view(self, path: Path) -> Self:
        """A folder with this run's config and checkpoints, and room of its own for what evaluations write.

        Args:
            path: the folder, which must not exist; its parents are made.

        Raises:
            UserError: the run has no config or cannot be read.
        """
        record = self.record
        if not self.config_path.is_file():
            raise UserError(f"run {self.name} has no config.yaml; it ended before it began (status: {self.status})")
        path.mkdir(parents=True)
        (path / "checkpoints").symlink_to((self.path / "checkpoints").resolve(), target_is_directory=True)
        (path / "config.yaml").symlink_to(self.config_path.resolve())
        write_json(path / "run.json", {**record, "view_of": str(self.path.resolve())})
        return type(self)(path)

    def update(self, **fields: Any) -> None:
        """Changes fields of `run.json`; readers see the old file or the new one, nothing between.

        Raises:
            RunFailed: the file cannot be written; the old one is intact.
        """
        with locked(self.path):
            write_json(self.path / "run.json", {**self.record, **fields})

    def finish(self, status: str, **fields: Any) -> None:
        """Records the end: status, time and seconds since `started`, and further fields such as `error`.

        Args:
            status: `finished`, `failed` or `interrupted`.
            **fields: further fields of `run.json`.
        """
        assert status in STATUSES[1:], status
        ended = timestamp()
        started = datetime.fromisoformat(self.record["started"])
        seconds = round((datetime.fromisoformat(ended) - started).total_seconds(), 3)
        self.update(**{"status": status, "ended": ended, "seconds": seconds, **fields})

    def resume(self, **fields: Any) -> None:
        """Records that this process continues the run in its own folder.

        Args:
            **fields: further fields of `run.json`.

        Raises:
            UserError: another process is still at it.
        """
        record = self.record
        if status_of(record) == "running" and record.get("pid") != os.getpid():
            raise UserError(f"run {self.name} is still running (process {record.get('pid')})")
        fresh = {"status": "running", "started": timestamp(), "ended": None, "seconds": None, "error": None}
        self.update(**{**fresh, **environment(), **fields})


_below: ContextVar[Path | None] = ContextVar("the root of the command that runs", default=None)


@contextlib.contextmanager
def runs_below(root: Path) -> Iterator[None]:
    """While a command runs, whoever names a run (a scorer, an exported model) means one below the command's root."""
    token = _below.set(root)
    try:
        yield
    finally:
        _below.reset(token)


def runs_root(flag: str | Path | None = None) -> Path:
    """The folder that holds all runs: the flag, that of the command that runs, `PLCOURSE_RUNS`, or else `runs`."""
    return Path(flag or _below.get() or os.environ.get("PLCOURSE_RUNS") or "runs").expanduser()


def list_runs(root: str | Path) -> list[Run]:
    """All runs below a root, newest first; folders that are no runs are passed over.

    A folder named like a run is listed even if its `run.json` is missing or broken; its status is then
    `unreadable`. The runs of a sweep are listed by that sweep, not here, and benchmarks are no runs.
    """
    found = [
        (run, folder)
        for lesson in folders(Path(root))
        if lesson.name not in (SWEEPS, BENCHMARKS)
        for variant in folders(lesson)
        for folder in folders(variant)
        if (run := Run(folder, root)) and ((folder / "run.json").is_file() or STAMP.fullmatch(folder.name))
    ]
    return [run for run, _ in sorted(found, key=lambda pair: age_key(pair[1]), reverse=True)]


def list_sweeps(root: str | Path) -> list[Path]:
    """The folders of all sweeps below a root, newest first."""
    found = [folder for name in folders(Path(root) / SWEEPS) for folder in folders(name)]
    return sorted((folder for folder in found if (folder / "sweep.json").is_file()), key=age_key, reverse=True)


def _folder_name(config_name: str) -> str:
    """`lesson/variant` as it is when both parts are plain words, else a safe name below `own/`."""
    plain = re.fullmatch(r"\w[\w.-]{0,100}/\w[\w.-]{0,100}", config_name, re.ASCII)
    return config_name if plain and not config_name.endswith((".yaml", ".yml")) else own_name(config_name)


def _missing_message(name: str, root: Path) -> str:
    names = [run.name for run in list_runs(root)]
    if not names:
        return f"no run {name!r}: '{root}' holds no runs; --runs_root or PLCOURSE_RUNS names another root"
    variants = [known.rpartition("/")[0] for known in names]
    hint = nearest(name, [*names, *variants]) or f"; the most recent are {', '.join(names[:3])}"
    return f"no run {name!r} in '{root}' (see `plcourse ls runs`){hint}"
