"""Exercises: small files with a gap or a bug, and checks that pass once it is fixed.

The exercises of a lesson are in the folder `plcourse/exercises/<lesson>/`:

    __init__.py        EXERCISES: their titles and hints; imports nothing heavy
    <name>.py          the file that the learner gets; its docstring is the task
    <name>_check.py    functions `check_...(answer)`; the docstring says what must hold, an AssertionError what was seen
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Args:
        name: the name of its file.
        title: the symptom, in one line that does not give away the cause.
        hint: where to look.
    """

    name: str
    title: str
    hint: str


def exercises_of(lesson: str) -> tuple[Exercise, ...]:
    """Returns the exercises of a lesson in order; none if it has no folder here."""
    module = f"{__name__}.{lesson}"
    return import_module(module).EXERCISES if find_spec(module) else ()


def starting_file(lesson: str, name: str) -> str:
    """Returns the file that the learner starts with; its first line names the exercise."""
    text = (Path(__file__).parent / lesson / f"{name}.py").read_text(encoding="utf-8")
    return f"{MARK}{lesson}/{name}\n{text}"


MARK = "# plcourse exercise "
