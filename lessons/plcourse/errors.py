"""Errors that a user can fix, with one-line messages that say what would be right.

Exit statuses: 2 for a bad request, 1 for a run that failed, 130 after Ctrl-C, 143 after SIGTERM.
"""

import difflib
from collections.abc import Iterable
from typing import Any

BAD_REQUEST = 2
RUN_FAILED = 1


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
    """Returns the first line of an error's text, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def root_cause(error: BaseException) -> BaseException:
    """Returns the first error of the chain of causes that led to an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ``"; did you mean 'x'?"`` for a misspelled name, or an empty string if no known name is similar."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{matches[0]}'?" if matches else ""
