"""The fields of `run.json`, and the status that they give. No torch."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Required, TypedDict

from plcourse.errors import UserError
from plcourse.files import LOCK, is_locked
from plcourse.runs.environment import Environment, Process, environment

SCHEMA = 1


class Best(TypedDict):
    """The best checkpoint so far: the metric that it was chosen by, the value, and where it was written."""

    metric: str
    value: float
    step: int
    epoch: int


class Start(TypedDict):
    """The checkpoint that a run started from, with its SHA-256; see `plcourse.runs.references.start_record`."""

    checkpoint: str
    sha256: str
    last: str | None  # the SHA-256 of the run's last checkpoint at that time


class ChangeEntry(TypedDict):
    """The settings that a continued run has changed, and the step from which they hold."""

    from_step: int
    from_epoch: int
    settings: dict[str, list[Any]]  # the old and the new value by key
    earlier_config: str


class RunRecord(Environment, total=False):
    """The contents of `run.json`; the required fields exist from the beginning. Times are in ISO format with a zone."""

    schema: Required[int]  # the version of the format
    status: Required[str]  # running, finished, failed or interrupted
    verb: Required[str | None]  # that made the run
    config: Required[str]  # the name of its config
    created: Required[str]  # when the folder was made
    started: Required[str]  # when the run started or was last resumed
    ended: Required[str | None]  # None while it runs
    seconds: Required[float | None]  # from `started` to `ended`
    seed: Required[int | None]
    best: Required[Best | None]  # None before the first checkpoint
    error: Required[str | None]  # one line, None if nothing failed
    trust: list[str]  # modules that the command allowed
    start: Start | None
    changes: list[ChangeEntry]
    tuned: dict[str, list[Any]]  # settings that a tuner chose: the value before and after
    logger_versions: list[int | str | None]  # of Lightning's loggers that write files
    data: dict[str, int]  # numbers of samples, such as `n_train`
    verbs: list[str]  # which of test and predict can follow
    training_seconds: float  # training and validation, over all resumptions
    steps: int  # optimizer steps
    view_of: str  # the folder of the run that this view evaluates
    sweep: dict[str, object]  # the arm and position of a sweep's cell


class MetricRow(TypedDict):
    """A row of `metrics.csv`."""

    step: int  # training batches, counted from 0
    epoch: int
    metric: str
    value: float


def read_object(file: Path, what: str) -> dict[str, Any]:
    """Reads a JSON file that contains an object.

    Raises:
        UserError: the file is missing or not a JSON object; `what` says what it should be.
    """
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read '{file}': {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{file}' is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"'{file}' is not {what}: it holds a {type(content).__name__}, not an object")
    return content


def read_record(file: Path) -> dict[str, Any]:
    """Reads a `run.json` or `sweep.json`.

    Raises:
        UserError: the file is missing, not JSON, or of a newer plcourse.
    """
    record = read_object(file, "a record")
    schema = record.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise UserError(f"'{file}' has schema {schema} of a newer plcourse; this version reads up to {SCHEMA}")
    return record


def status_of(record: Mapping[str, object], folder: Path) -> str:
    """Returns the status of the record of a folder as `Run.status` does."""
    status = str(record.get("status", "unreadable"))
    if status != "running":
        return status
    running = is_locked(folder / LOCK)
    if running is None:  # a run of 0.1.0, or a file system without locks
        running = process_of(record).lives is not False
    return "running" if running else "killed"


def process_of(record: Mapping[str, object]) -> Process:
    """Returns the process that a record names."""
    hardware, pid, start = (record.get(key) for key in ("hardware", "pid", "pid_start"))
    host = hardware.get("hostname") if isinstance(hardware, dict) else None
    return Process(host, pid if isinstance(pid, int) else None, start if isinstance(start, str) else None)


def first_record(config_name: str) -> RunRecord:
    """Returns the record of a run that begins now in this process."""
    now = timestamp()
    return {
        "schema": SCHEMA,
        "status": "running",
        "verb": None,
        "config": config_name,
        "created": now,
        "started": now,
        "ended": None,
        "seconds": None,
        "seed": None,
        "best": None,
        "error": None,
        **environment(),
    }


def timestamp() -> str:
    """Returns the local time with the zone, as records hold it."""
    return datetime.now().astimezone().isoformat()
