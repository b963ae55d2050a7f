"""Exercises: small files with a gap or a planted fault, and the relations that hold once it is mended.

A lesson's exercises are one folder, `plcourse/exercises/<lesson>/`:

    __init__.py        EXERCISES, what they are about, with a hint each; imports nothing heavy
    <name>.py          what the learner gets; its docstring is the task
    <name>_check.py    functions `check_...(answer)`; the docstring says what must hold, an AssertionError what is seen
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Args:
        name: of its file.
        title: what is wrong or missing, one line that gives nothing away.
        hint: where to look.
    """

    name: str
    title: str
    hint: str


def exercises_of(lesson: str) -> tuple[Exercise, ...]:
    """The exercises of a lesson, in order; none where it has no folder here."""
    module = f"{__name__}.{lesson}"
    return import_module(module).EXERCISES if find_spec(module) else ()


def starting_file(lesson: str, name: str) -> str:
    """The text of the file that the learner begins with; its first line says which exercise it is."""
    text = (Path(__file__).parent / lesson / f"{name}.py").read_text(encoding="utf-8")
    return f"{MARK}{lesson}/{name}\n{text}"


MARK = "# plcourse exercise "
