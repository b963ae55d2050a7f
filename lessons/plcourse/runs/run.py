"""The folder of a run: its record, its config, and everything that it wrote. No torch.

`<root>/<lesson>/<variant>/<YYYYMMDD-HHMMSS>[-n]/` contains `run.json`, `config.yaml`, `metrics.csv`, `checkpoints/`,
`eval/` and `predictions/`; the link `latest` beside it points to the newest. No run overwrites another, and a reader
never sees half of a `run.json`.
"""

import contextlib
import csv
import io
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self, cast

from plcourse.errors import UserError, nearest
from plcourse.files import folders, locked, write_json
from plcourse.runs.configs import own_name
from plcourse.runs.environment import environment
from plcourse.runs.folders import STAMP, age_key, find_folder, new_folder
from plcourse.runs.prediction_files import prediction_files
from plcourse.runs.record import MetricRow, RunRecord, first_record, read_object, read_record, status_of, timestamp

OUT_OF_FOLD = "out_of_fold.parquet"  # written by a cross-validated fit into predictions/
SWEEPS = "sweeps"  # the folder of all sweeps below the root
BENCHMARKS = "benchmarks"  # the folder of the results of `plcourse benchmark`


class Run:
    """The folder of one run and its contents. `plcourse.Run` adds methods that evaluate it.

    Args:
        path: the folder.
        root: the root folder of all runs, to which its name is relative; None makes the path its name.

    Attributes:
        variant: the name of the variant that the command has evaluated; see `plcourse.training.variant`. Empty for the
            run as it was trained.
        viewed: the folder of the run whose checkpoints this one links, if `view` has made it.
    """

    variant = ""
    viewed: Path | None = None

    def __init__(self, path: str | Path, root: str | Path | None = None) -> None:
        self.path = Path(path)
        self.root = None if root is None else Path(root)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @classmethod
    def create(cls, config_name: str, root: str | Path, record: Mapping[str, object]) -> Self:
        """Makes a new folder with a `run.json` and points `latest` at it.

        Args:
            config_name: `<lesson>/<variant>`; of any other name the last part is used, below `own/`.
            root: the root folder of all runs.
            record: fields of `run.json`, such as `verb` and `seed`, beside those that are always known.

        Raises:
            UserError: the folder cannot be made.
            RunFailed: `run.json` cannot be written.
        """
        parent = Path(root) / _folder_name(config_name)
        try:
            with new_folder(parent) as path:
                write_json(path / "run.json", {**first_record(config_name), **record})
        except OSError as error:
            what = f"cannot make a run folder in '{parent}': {error.strerror}"
            raise UserError(f"{what}; choose another root with --runs_root") from error
        return cls(path, root)

    @classmethod
    def load(cls, path_or_name: str | Path, root: str | Path | None = None) -> Self:
        """Opens a run by its folder or name.

        Args:
            path_or_name: a folder, or a name below the root such as `ddp/two_processes/20261123-101500`,
                `ddp/two_processes/latest` or `ddp/two_processes`, which means its latest.
            root: the root folder of all runs; default `PLCOURSE_RUNS`, else `runs`.

        Raises:
            UserError: the run does not exist; the message names the nearest or the most recent ones.
        """
        base, name = runs_root(root), str(path_or_name)
        if folder := find_folder(Path(name)) or find_folder(base / name):
            return cls(folder, base)
        raise UserError(_missing_message(name, base))

    @property
    def name(self) -> str:
        """`<lesson>/<variant>/<time>` below its root, or the whole path of a run elsewhere."""
        path, root = self.path.resolve(), self.root and self.root.resolve()
        return path.relative_to(root).as_posix() if root is not None and path.is_relative_to(root) else str(path)

    @property
    def record(self) -> RunRecord:
        """The current contents of `run.json`.

        Raises:
            UserError: the file is missing, not JSON, or of a newer plcourse.
        """
        return cast(RunRecord, read_record(self.path / "run.json"))

    @property
    def status(self) -> str:
        """The recorded `running`, `finished`, `failed` or `interrupted`, or else `killed` or `unreadable`.

        A killed run is recorded as running, but no process holds its lock (`plcourse.runs.claim`). An unreadable one
        has no usable `run.json`.
        """
        try:
            return status_of(self.record, self.path)
        except UserError:
            return "unreadable"

    @property
    def config_path(self) -> Path:
        """The complete config of the run."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> list[MetricRow]:
        """The rows of `metrics.csv`, except a last row that a kill cut short.

        Raises:
            UserError: another row that is not of this form, with its line.
        """
        file = self.path / "metrics.csv"
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read '{file}': {error}") from error
        lines = io.StringIO(text[: text.rfind("\n") + 1], newline="").readlines()
        reader = csv.DictReader(lines)
        rows: list[MetricRow] = []
        try:
            for row in reader:
                step, epoch, value = int(row["step"]), int(row["epoch"]), float(row["value"])
                rows.append({"step": step, "epoch": epoch, "metric": row["metric"], "value": value})
        except (KeyError, TypeError, ValueError, csv.Error) as error:
            found = lines[reader.line_num - 1].rstrip()[:200]
            what = f"not a row of step, epoch, metric, value: {found!r}"
            raise UserError(f"{file}:{reader.line_num}: {what}") from error
        return rows

    @property
    def predictions(self) -> list[Path]:
        """The Parquet files of `predict`, sorted; not those of a cross-validated fit."""
        return [path for path in prediction_files(self.path / "predictions") if path.name != OUT_OF_FOLD]

    def eval(self, split: str) -> dict[str, Any]:
        """Reads `eval/<split>.json`, for example `eval("test")["metrics"]["test/accuracy"]`.

        Raises:
            UserError: the split was not evaluated, or the file is broken.
        """
        file = self.path / "eval" / f"{split}.json"
        if not file.is_file():
            known = sorted(path.stem for path in (self.path / "eval").glob("*.json"))
            make = f"`plcourse test --run {shlex.quote(str(self.path))}` makes one"
            there = f"it has {', '.join(known)}" if known else make
            raise UserError(f"run {self.name} has no evaluation {split!r}; {there}{nearest(split, known)}")
        return read_object(file, "an evaluation")

    def checkpoint(self, which: str | Path = "best") -> Path:
        """Returns the file of a checkpoint.

        Args:
            which: `best`, `last`, the name of another file in `checkpoints/`, or a path.

        Raises:
            UserError: it does not exist; the message names those that do.
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
        """Makes a new folder with links to this run's config and checkpoints, into which evaluations can write.

        Raises:
            UserError: the run has no config or cannot be read.
        """
        record = self.record
        if not self.config_path.is_file():
            raise UserError(f"run {self.name} has no config.yaml: it ended before its start (status: {self.status})")
        path.mkdir(parents=True)
        (path / "checkpoints").symlink_to((self.path / "checkpoints").resolve(), target_is_directory=True)
        (path / "config.yaml").symlink_to(self.config_path.resolve())
        write_json(path / "run.json", {**record, "view_of": str(self.path.resolve())})
        view = type(self)(path)
        view.viewed = self.path
        return view

    def update(self, **fields: object) -> None:
        """Changes fields of `run.json` atomically.

        Raises:
            RunFailed: the file cannot be written; the old one is intact.
        """
        with locked(self.path):
            write_json(self.path / "run.json", {**self.record, **fields})

    def finish(self, status: Literal["finished", "failed", "interrupted"], **fields: object) -> None:
        """Records the end: the status, the time, and further fields."""
        ended = timestamp()
        started = datetime.fromisoformat(self.record["started"])
        seconds = round((datetime.fromisoformat(ended) - started).total_seconds(), 3)
        self.update(**{"status": status, "ended": ended, "seconds": seconds, **fields})

    def resume(self, **fields: object) -> None:
        """Records that this process, which has claimed the folder, continues the run, and further fields."""
        fresh = {"status": "running", "started": timestamp(), "ended": None, "seconds": None, "error": None}
        self.update(**{**fresh, **environment(), **fields})


_below: ContextVar[Path | None] = ContextVar("the root of the command that runs", default=None)


@contextlib.contextmanager
def runs_below(root: Path) -> Iterator[None]:
    """Makes names of runs inside the block, as in a scorer or an exported model, relative to the command's root."""
    token = _below.set(root)
    try:
        yield
    finally:
        _below.reset(token)


def runs_root(flag: str | Path | None = None) -> Path:
    """Returns the root folder of all runs: the flag, that of the current command, `PLCOURSE_RUNS`, or else `runs`."""
    return Path(flag or _below.get() or os.environ.get("PLCOURSE_RUNS") or "runs").expanduser()


def list_runs(root: str | Path) -> list[Run]:
    """Returns all runs below a root, newest first, except the runs of sweeps and benchmarks.

    A folder named like a run is listed even if its `run.json` is missing or broken; its status is `unreadable`.
    """
    found = [
        folder
        for lesson in folders(Path(root))
        if lesson.name not in (SWEEPS, BENCHMARKS)
        for variant in folders(lesson)
        for folder in folders(variant)
        if (folder / "run.json").is_file() or STAMP.fullmatch(folder.name)
    ]
    return [Run(folder, root) for folder in sorted(found, key=age_key, reverse=True)]


def list_sweeps(root: str | Path) -> list[Path]:
    """Returns the folders of all sweeps below a root, newest first."""
    found = [folder for name in folders(Path(root) / SWEEPS) for folder in folders(name)]
    return sorted((folder for folder in found if (folder / "sweep.json").is_file()), key=age_key, reverse=True)


def _folder_name(config_name: str) -> str:
    """`lesson/variant` unchanged if both parts are plain words, else a safe name below `own/`."""
    plain = re.fullmatch(r"\w[\w.-]{0,100}/\w[\w.-]{0,100}", config_name, re.ASCII)
    return config_name if plain and not config_name.endswith((".yaml", ".yml")) else own_name(config_name)


def _missing_message(name: str, root: Path) -> str:
    names = [run.name for run in list_runs(root)]
    if not names:
        return f"no run {name!r}: '{root}' contains no runs; choose another root with --runs_root or PLCOURSE_RUNS"
    variants = [known.rpartition("/")[0] for known in names]
    hint = nearest(name, [*names, *variants]) or f"; the most recent are {', '.join(names[:3])}"
    return f"no run {name!r} in '{root}' (see `plcourse ls runs`){hint}"
