"""Writes the results of an evaluation, ``eval/<stage>.json``, and keeps older ones beside it."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from plcourse.errors import RunFailed
from plcourse.files import write_json
from plcourse.runs.environment import package_version
from plcourse.runs.record import read_record
from plcourse.runs.recorder import shortest
from plcourse.training.variant import AS_TRAINED, Variant


def save_evaluation(
    run: Path,
    stage: str,
    metrics: dict[str, float],
    coverage: dict[str, int] | None,
    checkpoint: Path | None,
    processes: int,
    seconds: float,
    findings: Mapping[str, Any] = MappingProxyType({}),
    variant: Variant = AS_TRAINED,
) -> dict[str, Any]:
    """Writes ``eval/<stage>.json``, or ``eval/<stage>-<variant>.json``; for the first rank only.

    Args:
        run: the run's folder.
        stage: val or test.
        metrics: the scores.
        coverage: the counts of `plcourse.training.callbacks.Coverage`.
        checkpoint: the file that was scored.
        processes: the number of processes.
        seconds: time of the evaluation.
        findings: further fields of the file, which the loop has found.
        variant: how the evaluation differs from the run as it was trained.

    Returns:
        The contents of the file.
    """
    report = {
        "stage": stage,
        "settings": dict(variant.settings),
        "metrics": {name: shortest(value) for name, value in metrics.items()},
        "coverage": coverage,
        "checkpoint": relative_to_run(checkpoint, run),
        "processes": processes,
        "best_step": _best_step(run),
        "seconds": round(seconds, 3),
        "trust": list(variant.trust),
        "plcourse": package_version("plcourse"),
        **findings,
    }
    path = run / "eval" / f"{variant.file_stem(stage)}.json"
    path.parent.mkdir(exist_ok=True)
    older = _free_name(path)
    try:
        if path.is_file():
            _second_name(path, older)
        write_json(path, report)
    except (OSError, RunFailed):  # such as a full disk: the older file stays
        older.unlink(missing_ok=True)
        raise
    return report


def _best_step(run: Path) -> int | None:
    """The step of the run's current best checkpoint; further training may give another."""
    best = read_record(run / "run.json").get("best") if (run / "run.json").is_file() else None
    return best.get("step") if isinstance(best, dict) else None


def relative_to_run(checkpoint: Path | None, folder: Path) -> str | None:
    """Returns the path of a checkpoint for records: relative to the run's folder if it is inside."""
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
    """Gives the file a second name, so that a kill leaves the old or the new one."""
    try:
        os.link(path, older)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, older)
