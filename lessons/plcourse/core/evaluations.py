"""The file that an evaluation leaves in a run: ``eval/<stage>.json``, older ones kept beside it."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from plcourse.core.errors import RunFailed
from plcourse.core.record import shortest
from plcourse.core.runs import package_version, write_json


def save_evaluation(
    run: Path,
    stage: str,
    metrics: dict[str, float],
    coverage: dict[str, int] | None,
    checkpoint: Path | None,
    processes: int,
    seconds: float,
    findings: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Writes ``eval/<stage>.json``; for the first rank only.

    Args:
        run: the run's folder.
        stage: val or test.
        metrics: the scores, as `plcourse.core.record.shortest` is to write them.
        coverage: what `plcourse.core.callbacks.Coverage` counted.
        checkpoint: the file that was scored.
        processes: processes that scored.
        seconds: time of the evaluation.
        findings: what the loop found out beside the scores, further fields of the file.

    Returns:
        What was written.
    """
    report = {
        "metrics": {name: shortest(value) for name, value in metrics.items()},
        "coverage": coverage,
        "checkpoint": _relative(checkpoint, run),
        "processes": processes,
        "seconds": round(seconds, 3),
        "plcourse": package_version("plcourse"),
        **findings,
    }
    path = run / "eval" / f"{stage}.json"
    path.parent.mkdir(exist_ok=True)
    older = _free_name(path)
    try:
        if path.is_file():
            _second_name(path, older)
        write_json(path, report)
    except (OSError, RunFailed):  # a full disk, say: the older one stays what it was
        older.unlink(missing_ok=True)
        raise
    return report


def _relative(checkpoint: Path | None, folder: Path) -> str | None:
    if checkpoint is None:
        return None
    checkpoint, folder = checkpoint.resolve(), folder.resolve()
    return checkpoint.relative_to(folder).as_posix() if checkpoint.is_relative_to(folder) else str(checkpoint)


def _free_name(path: Path) -> Path:
    number = 1
    while (older := path.with_name(f"{path.stem}-{number}.json")).exists():
        number += 1
    return older


def _second_name(path: Path, older: Path) -> None:
    """Keeps the file under another name too, so that a kill leaves the first one or the new one, never none."""
    try:
        os.link(path, older)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, older)
