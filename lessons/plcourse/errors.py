"""Errors that a user can fix, with one-line messages that say what would be right.

Exit statuses: 2 for a bad request, 1 for a run that failed, 130 after Ctrl-C, 143 after SIGTERM.
"""

import difflib
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

BAD_REQUEST = 2
RUN_FAILED = 1

_own_modules: tuple[str, ...] = ()


class UserError(Exception):
    """A bad request (exit status 2) or a failed run (1); the message says what is wrong and what would be right."""

    def __init__(self, message: str, status: int = BAD_REQUEST) -> None:
        super().__init__(message)
        self.status = status


def gentler_training(model: Any) -> str:
    """Returns what to try when losses or weights are no longer finite."""
    owner = "trainer" if model.automatic_optimization else "model.init_args"  # the one that clips
    return f"lower the learning rate, or clip with --{owner}.gradient_clip_val 1"


class RunFailed(UserError):
    """A run that started and could not be finished; exit status 1."""

    def __init__(self, message: str) -> None:
        super().__init__(message, RUN_FAILED)


class Interrupted(BaseException):
    """A run that a signal ended after its checkpoint was written.

    Derives from BaseException, like KeyboardInterrupt, so that no ``except Exception`` swallows it.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"signal {signum}")
        self.signum = signum


def printable(text: str) -> str:
    """Escapes every control character of a text except line feed and tab.

    A name of a downloaded file could otherwise move the cursor, set the window's title or hide part of a line.
    """
    return "".join(c if c in "\n\t" or c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text, or its type, after its `place`."""
    return place(error) + (str(error).strip().splitlines() or [type(error).__name__])[0]


def locate_errors_in(modules: Iterable[str]) -> None:
    """Names the modules of the user, whose lines `place` gives from now on."""
    global _own_modules
    _own_modules = tuple(modules)


def place(error: BaseException | None) -> str:
    """Returns ``mine.py:12: ``, the line of the user's code where an error was raised.

    Returns:
        An empty text for a `UserError`, whose message says where, and for an error of the suite or of a library that
        the suite has called.
    """
    for link in _causes(None if isinstance(error, UserError) else error):
        if isinstance(link, SyntaxError) and link.filename and Path(link.filename).is_file():
            return f"{_shown(link.filename)}:{link.lineno}: "
        for frame, line in reversed(list(traceback.walk_tb(link.__traceback__))):
            module = frame.f_globals.get("__name__", "")
            if is_inside(module, _own_modules):
                return f"{_shown(frame.f_code.co_filename)}:{line}: "
            if is_inside(module, ("plcourse",)):
                break
    return ""


def is_inside(path: str, modules: Iterable[str]) -> bool:
    """Returns whether an import path is one of the modules or inside one."""
    return any(path == module or path.startswith(f"{module}.") for module in modules)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields an error, then the errors that led to it."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__


def _shown(file: str) -> str:
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def root_cause(error: BaseException) -> BaseException:
    """Returns the first error of the chain of causes that led to an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ``"; did you mean 'x'?"`` for a misspelled name, or an empty string if no known name is similar."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{matches[0]}'?" if matches else ""
