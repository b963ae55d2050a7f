"""The files of exercises: `plcourse learn` writes them for the learner and checks them, each in a separate process."""

import json
import os
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


def chosen_exercises(lesson: catalog.Lesson, name: str | None) -> list[Exercise]:
    """The exercises of a lesson, or the one with this name; a UserError if there is none."""
    known = exercises_of(lesson.key)
    chosen = [each for each in known if name in (None, each.name)]
    if not chosen:
        names = [each.name for each in known]
        raise UserError(f"unknown exercise {name!r}; choose {' or '.join(names)}{nearest(str(name), names)}")
    return chosen


def write(lesson: catalog.Lesson, chosen: Sequence[Exercise], dest: Path, typed: str) -> None:
    """Writes the starting files of a lesson's exercises; a UserError if one exists or cannot be written.

    `dest` is a folder or, for one exercise, a new file ending in .py; `typed` is what the learner typed for it.
    """
    if dest.suffix == ".py":
        if len(chosen) > 1:
            choice = f"choose an exercise by --name ({', '.join(each.name for each in chosen)}) or give a folder"
            raise UserError(f"--exercise {typed!r} is one file; {choice}")
        files = [dest]
        if not dest.parent.is_dir():
            raise UserError(f"--exercise {typed!r}: folder '{dest.parent}' does not exist; create it first")
    else:
        if dest.is_file() or not dest.absolute().parent.is_dir():
            raise UserError(f"--exercise {typed!r}: give a folder or a new file ending in .py")
        files = [dest / f"{lesson.key}_{each.name}.py" for each in chosen]
    if existing := [file for file in files if file.exists()]:
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
    """Checks a file, or the exercises in a folder, all or those of one lesson; a UserError until all are right."""
    if not dest.exists():
        raise UserError(f"--check {str(dest)!r}: no such file or folder; --exercise creates one")
    files = sorted(dest.glob("*.py")) if dest.is_dir() else [dest]
    prefix = f"{lesson.key}/" if lesson else ""
    found = [(file, name) for file in files if (name := _exercise_of(file)) and name.startswith(prefix)]
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
    name = first.removeprefix(MARK).strip() if first.startswith(MARK) else ""
    key, _, exercise = name.partition("/")
    return name if exercise in [each.name for each in exercises_of(key)] else ""


def _is_wrong(file: Path, name: str, hints: bool) -> bool:
    """Prints the result of each check; returns whether any failed."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "plcourse.exercises.runner", name, str(file.resolve()), str(result)]
        path = os.pathsep.join(filter(None, [str(catalog.PACKAGE.parent), os.environ.get("PYTHONPATH")]))
        env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_CHECK_SECONDS, cwd=folder, env=env)
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
