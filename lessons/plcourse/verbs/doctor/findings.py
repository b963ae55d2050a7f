"""What an examination finds, and how it is said."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from plcourse.errors import first_line

OK, NOTE, FIX = "ok", "note", "FIX"


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes:
        state: `ok`, `note` for what is worth knowing, `FIX` for what will go wrong.
        what: what was seen.
        remedy: what to do, for `FIX`; why it matters, for a note; may be empty.
    """

    state: str
    what: str
    remedy: str = ""

    def lines(self) -> str:
        """As it is printed."""
        return f"{self.state:<5} {self.what}" + (f"\n      {self.remedy}" if self.remedy else "")


def examined(examinations: Iterable[Callable[[], Iterable[Finding]]]) -> Iterator[Finding]:
    """The findings of all examinations; one that fails is itself a finding."""
    for examine in examinations:
        try:
            yield from examine()
        except Exception as error:
            name = examine.__name__.replace("_", " ").strip()
            yield Finding(FIX, f"{name}: {type(error).__name__}: {first_line(error)}", "PLCOURSE_DEBUG=1 shows more")
