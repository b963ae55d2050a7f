"""What `run.json` holds: its fields as a run begins, its schema, and the status that it tells. No torch."""

import json
import socket
from datetime import datetime
from pathlib import Path
from typing import Any

from plcourse.errors import UserError
from plcourse.runs.environment import environment, process_start

SCHEMA = 1
STATUSES = ("running", "finished", "failed", "interrupted")


def read_record(file: Path) -> dict[str, Any]:
    """What a `run.json` or `sweep.json` holds.

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
        raise UserError(f"'{file}' has schema {schema}, of a newer plcourse; this one reads up to {SCHEMA}")
    return record


def status_of(record: dict[str, Any]) -> str:
    """The status of a record as `Run.status` gives it, for callers that have read it already."""
    status = str(record.get("status", "unreadable"))
    hardware, pid = record.get("hardware"), record.get("pid")
    here = isinstance(hardware, dict) and hardware.get("hostname") == socket.gethostname()
    if status != "running" or not here or not isinstance(pid, int):
        return status
    began, recorded = process_start(pid), record.get("pid_start")
    gone = began == "" or (began is not None and recorded is not None and began != recorded)
    return "killed" if gone else "running"


def first_record(config_name: str, record: dict[str, Any]) -> dict[str, Any]:
    """Every field of `run.json` as a run begins."""
    now = timestamp()
    fields = {
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
    for key, value in record.items():
        both = isinstance(value, dict) and isinstance(fields.get(key), dict)
        fields[key] = {**fields[key], **value} if both else value
    return fields


def timestamp() -> str:
    """The time here, with the zone, as records hold it."""
    return datetime.now().astimezone().isoformat()
