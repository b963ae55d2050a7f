"""Exercises: small files with a gap or a bug, and checks that pass once it is fixed.

`exercises.yaml` lists them by lesson. Each has two files in the folder of its lesson:

    <name>.py          the file that the learner gets; its docstring is the task
    <name>_check.py    functions `check_...(answer)`; the docstring says what must hold, an AssertionError what was seen
"""

from pathlib import Path
from typing import NamedTuple

import yaml

MARK = "# plcourse exercise "
_FOLDER = Path(__file__).parent


class Exercise(NamedTuple):
    """One exercise: its file's name, the symptom without the cause in one line, and a hint where to look."""

    name: str
    title: str
    hint: str


def exercises_of(lesson: str) -> list[Exercise]:
    """Returns the exercises of a lesson in order; none for an unknown lesson."""
    lessons = yaml.safe_load((_FOLDER / "exercises.yaml").read_text(encoding="utf-8"))
    return [Exercise(name, **texts) for name, texts in lessons.get(lesson, {}).items()]


def starting_file(lesson: str, name: str) -> str:
    """Returns the file that the learner starts with; its first line names the exercise."""
    text = (_FOLDER / lesson / f"{name}.py").read_text(encoding="utf-8")
    return f"{MARK}{lesson}/{name}\n{text}"
