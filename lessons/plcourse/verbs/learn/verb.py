"""`plcourse learn`: the learning path, a lesson's guide or code, and its exercises. This process imports no torch."""

import contextlib
import os
import re
import sys
from pathlib import Path

from plcourse import catalog
from plcourse.console import say
from plcourse.console.line_parser import LineParser
from plcourse.errors import UserError, nearest
from plcourse.exercises import exercises_of
from plcourse.runs.config_yaml import lookup
from plcourse.runs.run import Run, list_runs, runs_root
from plcourse.runs.variants import test_score
from plcourse.verbs.learn.exercise_files import check, chosen_exercises, write
from plcourse.verbs.learn.syllabus import PLANS, TRACKS


def learn_parser() -> LineParser:
    """Returns the parser of `plcourse learn`."""
    parser = LineParser("learn", "[LESSON] [--code | --exercise DEST | --check DEST] [--hint]")
    add = parser.add_argument
    lesson = "the lesson whose guide is shown, by number or name; without it, the learning path"
    add("lesson", nargs="?", metavar="LESSON", help=lesson)
    add("--code", action="store_true", help="print the lesson's idea as one short Python file, minimal.py")
    exercise = "write the lesson's exercises into a folder, or one into a file that ends with .py"
    add("--exercise", metavar="DEST", help=exercise)
    add("--name", metavar="EXERCISE", help="with --exercise or --hint: only this exercise")
    check = "say what is still wrong in a file or a folder; the exit status is 1 until all is right"
    add("--check", metavar="DEST", help=check)
    add("--hint", action="store_true", help="give a hint for each exercise; with --check, for each that is still wrong")
    parser.add_runs_root()
    return parser


def learn(argv: list[str]) -> None:
    """`plcourse learn [LESSON] [--code | --exercise DEST | --check DEST] [--hint] [--name EXERCISE]`."""
    args = learn_parser().parse(argv)
    lesson = None if args.lesson is None else _lesson(args.lesson)
    actions = {"--code": args.code, "--exercise": args.exercise is not None, "--check": args.check is not None}
    given = [flag for flag, is_given in actions.items() if is_given]
    if len(given) > 1:
        raise UserError(f"plcourse learn: {' and '.join(given)} exclude each other; give one of them")
    if args.name is not None and args.exercise is None and not args.hint:
        raise UserError("plcourse learn: --name goes with --exercise or --hint")
    if args.check is not None:
        check(Path(args.check), lesson, args.hint)
    elif lesson is None:
        if needy := [*given, *["--hint"] * args.hint]:
            raise UserError(f"plcourse learn: {needy[0]} needs a lesson, for example `plcourse learn 13 {needy[0]}`")
        _show(_path(_finished(args.runs_root)))
    elif args.code:
        _show(_file_of(lesson, "minimal.py"), is_code=True)
    elif args.exercise is None and not args.hint:
        _show(_guide(lesson, _finished(args.runs_root)))
    else:
        chosen = chosen_exercises(lesson, args.name)
        if args.exercise is not None:
            write(lesson, chosen, Path(args.exercise), args.exercise)
        if args.hint:
            say("\n".join(f"{each.name}: {each.hint}" for each in chosen))


def _lesson(word: str) -> catalog.Lesson:
    for lesson in catalog.LESSONS:
        if word in (lesson.key, str(lesson.number)):
            return lesson
    keys = [lesson.key for lesson in catalog.LESSONS]
    known = f"12 to 19 or {', '.join(keys)}"
    raise UserError(f"plcourse learn: unknown lesson {word!r}; choose {known}{nearest(word, keys)}")


def _finished(flag: str | None) -> dict[str, str]:
    """The score of the newest finished run of each config, by the config's name."""
    found: dict[str, str] = {}
    for run in list_runs(runs_root(flag)):
        if run.status == "finished" and (config := str(run.record.get("config"))) not in found:
            found[config] = _score(run)
    return found


def _score(run: Run) -> str:
    """The run's test score, or else its best score during training."""
    record, score = run.record, None
    with contextlib.suppress(UserError):  # a damaged evaluation file does not hide the run
        score = test_score(run, record)
    name, value = score or (lookup(record, "best.metric"), lookup(record, "best.value"))
    return f"{name} {value:.4g}" if isinstance(value, int | float) else "finished"


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
    lines = [_file_of(lesson, "README.md").rstrip(), "", "## Next", ""]
    lines += [f"- finished: `{name}`, {score}" for name, score in _of(lesson, finished)]
    lines += ["", *_first_commands(lesson)] if lines[-1] else _first_commands(lesson)
    lines.append(f"    plcourse learn {lesson.number} --code")
    if exercises_of(lesson.key):
        lines.append(f"    plcourse learn {lesson.number} --exercise exercises/")
    lines.append("    plcourse learn")
    return "\n".join(lines) + "\n"


def _of(lesson: catalog.Lesson, finished: dict[str, str]) -> list[tuple[str, str]]:
    return [(name, score) for name, score in finished.items() if name.partition("/")[0] == lesson.key]


def _first_commands(lesson: catalog.Lesson) -> list[str]:
    """The commands at the top of a guide, as Markdown code, including continuation lines."""
    start = _file_of(lesson, "README.md").partition("**The question.**")[0]
    return re.findall(r"^    plcourse (?:.*\\\n)*.*", start, re.MULTILINE)


def _file_of(lesson: catalog.Lesson, name: str) -> str:
    file = catalog.PACKAGE / lesson.key / name
    if not file.is_file():
        raise UserError(f"lesson {lesson.number} ({lesson.key}) has no {name} in this version")
    return file.read_text(encoding="utf-8")


def _show(text: str, is_code: bool = False) -> None:
    """Pages Markdown or Python on a terminal; prints it unchanged elsewhere, so that it can be saved with ``>``."""
    if not sys.stdout.isatty():
        say(text.rstrip())
        return
    from rich.console import Console
    from rich.syntax import Syntax

    from plcourse.console.markdown import Guide

    os.environ.setdefault("LESS", "-FRX")  # keeps colors, and does not page what fits on the screen
    console = Console(width=min(100, Console().width))
    with console.pager(styles=True):
        console.print(Syntax(text, "python", background_color="default") if is_code else Guide(text))
