"""The files of exercises: `plcourse learn` writes them for the learner and checks them, each in a separate process."""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from plcourse import catalog
from plcourse.console import say
from plcourse.console.layout import aligned
from plcourse.errors import RUN_FAILED, UserError, nearest
from plcourse.exercises import MARK, Exercise, exercises_of, starting_file

_CHECK_SECONDS = 90


def chosen_exercises(lesson: catalog.Lesson | None, name: str | None) -> list[Exercise]:
    """The exercises of a lesson, or the one with this name.

    Raises:
        UserError: no exercise has this name.
    """
    assert lesson is not None
    known = exercises_of(lesson.key)
    if not known:
        raise UserError(f"lesson {lesson.number} ({lesson.key}) has no exercises in this version")
    chosen = [each for each in known if name in (None, each.name)]
    if not chosen:
        names = [each.name for each in known]
        raise UserError(f"unknown exercise {name!r}; choose {' or '.join(names)}{nearest(str(name), names)}")
    return chosen


def write(lesson: catalog.Lesson | None, chosen: Sequence[Exercise], dest: Path, typed: str) -> None:
    """Writes starting files, and never overwrites a file of the learner.

    Args:
        lesson: the lesson.
        chosen: its exercises.
        dest: a folder, or one new file ending in .py for one exercise.
        typed: the destination as the learner typed it.

    Raises:
        UserError: a file exists already, or the destination does not fit or cannot be written.
    """
    assert lesson is not None
    if dest.suffix == ".py":
        if len(chosen) > 1:
            names = ", ".join(each.name for each in chosen)
            raise UserError(
                f"--exercise {typed!r} is one file; choose an exercise by --name ({names}) or give a folder"
            )
        files = [dest]
        if not dest.parent.is_dir():
            raise UserError(f"--exercise {typed!r}: folder '{dest.parent}' does not exist; create it first")
    else:
        if dest.is_file() or not dest.absolute().parent.is_dir():
            raise UserError(f"--exercise {typed!r}: give a folder or a new file ending in .py")
        files = [dest / f"{lesson.key}_{each.name}.py" for each in chosen]
    existing = [file for file in files if file.exists()]
    if existing:
        raise UserError(f"'{existing[0]}' exists; remove it to start over, or check it: plcourse learn --check {typed}")
    try:
        if dest.suffix != ".py":
            dest.mkdir(exist_ok=True)
        for each, file in zip(chosen, files, strict=True):
            file.write_text(starting_file(lesson.key, each.name), encoding="utf-8")
            say(f"{file}: {each.title}")
    except OSError as error:
        raise UserError(f"cannot write '{error.filename}': {error.strerror}") from error
    say(f"solve it, then: plcourse learn {lesson.number} --check {shlex.quote(typed)}")


def check(dest: Path, lesson: catalog.Lesson | None, hints: bool) -> None:
    """Checks one file, or all exercises in a folder.

    Args:
        dest: the file or folder.
        lesson: checks only exercises of this lesson; None for all.
        hints: whether to print a hint for each wrong exercise.

    Raises:
        UserError: there is no exercise, or one of them is not solved yet (exit status 1).
    """
    if not dest.exists():
        raise UserError(f"--check {str(dest)!r}: no such file or folder; --exercise creates one")
    files = sorted(dest.glob("*.py")) if dest.is_dir() else [dest]
    found = [(file, name) for file in files if (name := _exercise_of(file))]
    found = [(file, name) for file, name in found if lesson is None or name.startswith(f"{lesson.key}/")]
    if not found:
        of = f" of lesson {lesson.number}" if lesson else ""
        raise UserError(f"--check {str(dest)!r}: found no exercise{of}; exercises start with {MARK.strip()!r}")
    wrong = sum(_is_wrong(file, name, hints) for file, name in found)
    if wrong:
        raise UserError(f"{wrong} of {len(found)} exercises {'is' if wrong == 1 else 'are'} not right yet", RUN_FAILED)
    say("all right")


def _exercise_of(file: Path) -> str:
    """The exercise named in a file's first line, such as ``kfold/scaler``; empty if it names none."""
    try:
        with file.open(encoding="utf-8", errors="replace") as stream:
            first = stream.readline().strip()
    except OSError as error:
        raise UserError(f"cannot read '{file}': {error.strerror}") from error
    name = first.removeprefix(MARK.strip()).strip() if first.startswith(MARK.strip()) else ""
    key, _, exercise = name.partition("/")
    keys = [lesson.key for lesson in catalog.LESSONS]
    known = key in keys and exercise in [each.name for each in exercises_of(key)]
    return name if known and re.fullmatch(r"\w+/\w+", name) else ""


def _is_wrong(file: Path, name: str, hints: bool) -> bool:
    """Prints which relations hold; returns whether any does not."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "plcourse.exercises.runner", name, str(file.resolve()), str(result)]
        package = str(catalog.PACKAGE.parent)
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_CHECK_SECONDS, cwd=folder, env=environment
            )
            rows = json.loads(result.read_bytes()) if result.is_file() else None
            last = (done.stderr.strip().splitlines() or ["the process ended without a message"])[-1]
        except subprocess.TimeoutExpired:
            rows, last = None, f"it did not finish within {_CHECK_SECONDS} s"
    if rows is None:
        rows = [{"says": "The checks finish.", "problem": last}]
    say(f"{file}")
    lines = aligned([("  right" if row["problem"] is None else "  WRONG", row["says"]) for row in rows])
    for line, row in zip(lines, rows, strict=True):
        say(line if row["problem"] is None else f"{line}\n         {row['problem']}")
    wrong = any(row["problem"] is not None for row in rows)
    if wrong and hints:
        key, _, exercise = name.partition("/")
        say(f"  hint: {next(each.hint for each in exercises_of(key) if each.name == exercise)}")
    return wrong
