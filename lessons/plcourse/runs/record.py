"""The fields of `run.json`, and the status that they give. No torch."""

import json
import socket
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Required, TypedDict

from plcourse.errors import UserError
from plcourse.runs.environment import Environment, environment, process_start

SCHEMA = 1
STATUSES = ("running", "finished", "failed", "interrupted")


class Best(TypedDict):
    """The best checkpoint so far: the metric that it was chosen by, the value, and where it was written."""

    metric: str
    value: float
    step: int
    epoch: int


class Start(TypedDict):
    """The checkpoint that a run started from: path, SHA-256, and the SHA-256 of the run's last checkpoint then."""

    checkpoint: str
    sha256: str
    last: str | None


class ChangeEntry(TypedDict):
    """The settings that a continued run has changed, old and new value by key, and the step from which they hold."""

    from_step: int
    from_epoch: int
    settings: dict[str, list[Any]]
    earlier_config: str


class RunRecord(Environment, total=False):
    """The contents of `run.json`; the required fields exist from the beginning.

    Attributes:
        schema: the version of the format.
        status: one of `STATUSES`.
        verb: the verb that made the run.
        config: the name of its config.
        created: the time at which the folder was made, in ISO format with the zone, as all times here.
        started: the time of the start, or of the last resumption.
        ended: the time of the end, None while it runs.
        seconds: from `started` to `ended`.
        seed: the seed of everything.
        best: the best checkpoint, None before the first.
        error: one line, None where nothing failed.
        trust: modules that the command allowed.
        start: the checkpoint from which it started; see `plcourse.runs.start`.
        changes: what continued runs have changed.
        tuned: settings that a tuner chose: the value before and after.
        logger_versions: the versions of Lightning's loggers that write files.
        data: numbers of samples, such as `n_train`.
        verbs: which of test and predict can follow.
        training_seconds: time of training and validation, over all resumptions.
        steps: optimizer steps.
        view_of: the folder of the run that this view evaluates.
        sweep: the arm and position of a sweep's cell.
    """

    schema: Required[int]
    status: Required[str]
    verb: Required[str | None]
    config: Required[str]
    created: Required[str]
    started: Required[str]
    ended: Required[str | None]
    seconds: Required[float | None]
    seed: Required[int | None]
    best: Required[Best | None]
    error: Required[str | None]
    trust: list[str]
    start: Start | None
    changes: list[ChangeEntry]
    tuned: dict[str, list[Any]]
    logger_versions: list[int | str | None]
    data: dict[str, int]
    verbs: list[str]
    training_seconds: float
    steps: int
    view_of: str
    sweep: dict[str, Any]


def read_record(file: Path) -> dict[str, Any]:
    """Reads a `run.json` or `sweep.json`.

    Raises:
        UserError: the file is missing, not JSON, or of a newer plcourse.
    """
    try:
        record = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read '{file}': {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{file}' is not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise UserError(f"'{file}' is not a record: it holds a {type(record).__name__}, not an object")
    schema = record.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise UserError(f"'{file}' has schema {schema} of a newer plcourse; this version reads up to {SCHEMA}")
    return record


def status_of(record: Mapping[str, Any]) -> str:
    """Returns the status of a record as `Run.status` does."""
    status = str(record.get("status", "unreadable"))
    hardware, pid = record.get("hardware"), record.get("pid")
    here = isinstance(hardware, dict) and hardware.get("hostname") == socket.gethostname()
    if status != "running" or not here or not isinstance(pid, int):
        return status
    began, recorded = process_start(pid), record.get("pid_start")
    gone = began == "" or (began is not None and recorded is not None and began != recorded)
    return "killed" if gone else "running"


def first_record(config_name: str, given: Mapping[str, Any]) -> RunRecord:
    """Returns the record of a run that begins; dictionaries in `given` are added to those of the environment."""
    now = timestamp()
    fields: dict[str, Any] = {
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
    for key, value in given.items():
        both = isinstance(value, dict) and isinstance(fields.get(key), dict)
        fields[key] = {**fields[key], **value} if both else value
    return RunRecord(**fields)


def timestamp() -> str:
    """Returns the local time with the zone, as records hold it."""
    return datetime.now().astimezone().isoformat()
