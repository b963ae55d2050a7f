"""The findings of an examination."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from plcourse.errors import first_line

OK, NOTE, FIX = "ok", "note", "FIX"


class Finding(NamedTuple):
    """The result of one check."""

    state: str  # `ok`, `note` for something worth knowing, `FIX` for something that will go wrong
    what: str
    remedy: str = ""  # how to fix it, or why it matters; may be empty

    def lines(self) -> str:
        """The finding as it is printed."""
        return f"{self.state:<5} {self.what}" + (f"\n      {self.remedy}" if self.remedy else "")


class Problem(Exception):
    """Ends a check with a finding to fix; its arguments are what will go wrong and how to fix it."""


def run_checks(examinations: Iterable[Callable[[], Iterable[Finding]]]) -> Iterator[Finding]:
    """Yields the findings of all examinations; an exception becomes a finding."""
    for examine in examinations:
        try:
            yield from examine()
        except Problem as problem:
            yield Finding(FIX, *problem.args)
        except Exception as error:
            name = getattr(examine, "func", examine).__name__.replace("_", " ").strip()  # a partial has a func
            yield Finding(FIX, f"{name}: {type(error).__name__}: {first_line(error)}", "PLCOURSE_DEBUG=1 shows more")
