"""`plcourse learn`: the learning path, a lesson's guide, and its exercises. No torch in this process."""

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from plcourse import catalog
from plcourse.console import say
from plcourse.console.layout import aligned
from plcourse.console.line_parser import LineParser
from plcourse.errors import RUN_FAILED, UserError, nearest
from plcourse.exercises import MARK, exercises_of, starting_file
from plcourse.runs.headline import test_score
from plcourse.runs.run import Run, list_runs, runs_root
from plcourse.verbs.learn.syllabus import PLANS, TRACKS

_CHECK_SECONDS = 90


def learn(argv: list[str]) -> None:
    """`plcourse learn [LESSON] [--exercise DEST | --check DEST] [--hint] [--name EXERCISE]`."""
    parser = LineParser("learn")
    parser.add_argument("lesson", nargs="?")
    parser.add_argument("--exercise", metavar="DEST")
    parser.add_argument("--check", metavar="DEST")
    parser.add_argument("--hint", action="store_true")
    parser.add_argument("--name")
    parser.add_argument("--runs_root")
    args = parser.parse(argv)
    lesson = None if args.lesson is None else _lesson(args.lesson)
    if args.exercise is not None and args.check is not None:
        raise UserError("plcourse learn: --exercise writes and --check checks; give one of them")
    if args.check is not None:
        _check(Path(args.check), lesson, args.hint)
        return
    if args.exercise is None and not args.hint:
        if args.name is not None:
            raise UserError("plcourse learn: --name goes with --exercise or --hint")
        finished = _finished(args.runs_root)
        _show(_path(finished) if lesson is None else _guide(lesson, finished))
        return
    if lesson is None:
        raise UserError("plcourse learn: of which lesson? for example `plcourse learn 13 --exercise DEST`")
    chosen = _chosen(lesson, args.name)
    if args.exercise is not None:
        _write(lesson, chosen, Path(args.exercise), args.exercise)
    if args.hint:
        say("\n".join(f"{each.name}: {each.hint}" for each in chosen))


def _lesson(word: str) -> catalog.Lesson:
    for lesson in catalog.LESSONS:
        if word in (lesson.key, str(lesson.number)):
            return lesson
    keys = [lesson.key for lesson in catalog.LESSONS]
    raise UserError(f"plcourse learn: no lesson {word!r}; there are 12 to 19: {', '.join(keys)}{nearest(word, keys)}")


def _finished(flag: str | None) -> dict[str, str]:
    """What the newest finished run of each config scored, by the config's name."""
    found: dict[str, str] = {}
    for run in list_runs(runs_root(flag)):
        if run.status != "finished":
            continue
        record = run.record
        found.setdefault(str(record.get("config")), _score(run, record))
    return found


def _score(run: Run, record: dict[str, Any]) -> str:
    """The run's score of the test part, else the best one while it trained."""
    with contextlib.suppress(UserError):  # a broken file hides no run
        if tested := test_score(run, record):
            return f"{tested[0]} {tested[1]:.4g}"
    best = record.get("best")
    if isinstance(best, dict) and isinstance(best.get("value"), int | float):
        return f"{best.get('metric')} {best['value']:.4g}"
    return "finished"


def _path(finished: dict[str, str]) -> str:
    lines = ["# The learning path", "", "Each lesson is a working mechanism: run it, read it, change it, use it.", ""]
    for lesson in catalog.LESSONS:
        plan = PLANS[lesson.number]
        needs = f"after {', '.join(map(str, plan.needs))}" if plan.needs else "begin here"
        lines += [f"## {lesson.number} {lesson.title} (`{lesson.key}`)", ""]
        lines += [f"{lesson.summary} About {plan.minutes} minutes, {needs}; {plan.hardware}.", ""]
        lines += [f"- Concepts: {', '.join(plan.concepts)}", f"- Afterwards you can {plan.outcome}."]
        lines += [f"- Done: `{name}`, {score}" for name, score in _of(lesson, finished)]
        lines.append("")
    lines += ["## Tracks", ""]
    lines += [f"- {track}: {', '.join(map(str, numbers))}" for track, numbers in TRACKS.items()]
    undone = next((each for each in catalog.LESSONS if not _of(each, finished)), catalog.LESSONS[0])
    lines += ["", "## Next", "", f"    plcourse learn {undone.number}", *_first_commands(undone)[:1]]
    return "\n".join(lines) + "\n"


def _guide(lesson: catalog.Lesson, finished: dict[str, str]) -> str:
    lines = [_guide_of(lesson), "", "## Next", ""]
    lines += [f"- finished: `{name}`, {score}" for name, score in _of(lesson, finished)]
    lines += ["", *_first_commands(lesson)] if lines[-1] else _first_commands(lesson)
    if exercises_of(lesson.key):
        lines.append(f"    plcourse learn {lesson.number} --exercise exercises/")
    lines.append("    plcourse learn")
    return "\n".join(lines) + "\n"


def _of(lesson: catalog.Lesson, finished: dict[str, str]) -> list[tuple[str, str]]:
    return [(name, score) for name, score in finished.items() if name.partition("/")[0] == lesson.key]


def _first_commands(lesson: catalog.Lesson) -> list[str]:
    """The commands that a guide begins with, as code of Markdown, with the lines that continue them."""
    start = _guide_of(lesson).partition("**The question.**")[0]
    return re.findall(r"^    plcourse (?:.*\\\n)*.*", start, re.MULTILINE)


def _guide_of(lesson: catalog.Lesson) -> str:
    file = catalog.PACKAGE / lesson.key / "README.md"
    if not file.is_file():
        raise UserError(f"lesson {lesson.number} ({lesson.key}) has no guide in this version")
    return file.read_text(encoding="utf-8").rstrip()


def _show(markdown: str) -> None:
    """Rendered and paged on a terminal, as it is written elsewhere."""
    if not sys.stdout.isatty():
        say(markdown.rstrip())
        return
    from rich.console import Console

    from plcourse.console.markdown import Guide

    os.environ.setdefault("LESS", "-FRX")  # colours, and no pager for what fits on the screen
    console = Console(width=min(100, Console().width))
    with console.pager(styles=True):
        console.print(Guide(markdown))


def _chosen(lesson: catalog.Lesson, name: str | None) -> list[Any]:
    known = exercises_of(lesson.key)
    if not known:
        raise UserError(f"lesson {lesson.number} ({lesson.key}) has no exercises in this version")
    chosen = [each for each in known if name in (None, each.name)]
    if not chosen:
        names = [each.name for each in known]
        raise UserError(f"--name {name!r}: the exercises are {', '.join(names)}{nearest(str(name), names)}")
    return chosen


def _write(lesson: catalog.Lesson, chosen: list[Any], dest: Path, typed: str) -> None:
    """Writes starting files; what the learner has written already is never overwritten."""
    if dest.suffix == ".py":
        if len(chosen) > 1:
            names = ", ".join(each.name for each in chosen)
            raise UserError(f"--exercise {typed!r} is one file; say which with --name, or give a folder ({names})")
        files = [dest]
        if not dest.parent.is_dir():
            raise UserError(f"--exercise {typed!r}: the folder '{dest.parent}' does not exist; make it first")
    else:
        if dest.is_file() or not dest.absolute().parent.is_dir():
            raise UserError(f"--exercise {typed!r}: give a folder, or a new file that ends with .py")
        files = [dest / f"{lesson.key}_{each.name}.py" for each in chosen]
    there = [file for file in files if file.exists()]
    if there:
        raise UserError(f"'{there[0]}' exists; remove it to begin again, or `plcourse learn --check {typed}`")
    try:
        if dest.suffix != ".py":
            dest.mkdir(exist_ok=True)
        for each, file in zip(chosen, files, strict=True):
            file.write_text(starting_file(lesson.key, each.name), encoding="utf-8")
            say(f"{file}: {each.title}")
    except OSError as error:
        raise UserError(f"cannot write '{error.filename}': {error.strerror}") from error
    say(f"mend it, then: plcourse learn {lesson.number} --check {shlex.quote(typed)}")


def _check(dest: Path, lesson: catalog.Lesson | None, hints: bool) -> None:
    """Checks one file or a folder's; the exit status is 1 as long as something is wrong."""
    if not dest.exists():
        raise UserError(f"--check {str(dest)!r}: there is no such file or folder; --exercise writes one")
    found = [(file, _exercise_of(file)) for file in (sorted(dest.glob("*.py")) if dest.is_dir() else [dest])]
    found = [(file, name) for file, name in found if name and (lesson is None or name.startswith(f"{lesson.key}/"))]
    if not found:
        of = f" of lesson {lesson.number}" if lesson else ""
        raise UserError(f"--check {str(dest)!r}: no exercise{of} there; their first line begins with {MARK.strip()!r}")
    wrong = sum(_check_one(file, name, hints) for file, name in found)
    if wrong:
        raise UserError(f"{wrong} of {len(found)} exercises {'is' if wrong == 1 else 'are'} not right yet", RUN_FAILED)
    say("all right")


def _exercise_of(file: Path) -> str:
    """The exercise that a file's first line names, empty where it names none."""
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


def _check_one(file: Path, name: str, hints: bool) -> bool:
    """Says what holds and what does not; returns whether something is wrong."""
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
            last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        except subprocess.TimeoutExpired:
            rows, last = None, f"it did not end within {_CHECK_SECONDS} s"
    if rows is None:
        rows = [{"says": "The checks come to an end.", "problem": last}]
    say(f"{file}")
    cells = [("  right" if row["problem"] is None else "  WRONG", row["says"]) for row in rows]
    lines = aligned(cells)
    for line, row in zip(lines, rows, strict=True):
        say(line if row["problem"] is None else f"{line}\n         {row['problem']}")
    wrong = any(row["problem"] is not None for row in rows)
    if wrong and hints:
        key, _, exercise = name.partition("/")
        say(f"  hint: {next(each.hint for each in exercises_of(key) if each.name == exercise)}")
    return wrong
