"""Prints on standard output. No torch."""

import os
import sys

from plcourse.errors import printable


def open_streams() -> None:
    """Opens /dev/null for each standard stream that is closed, as under some daemons.

    Otherwise the next file to be opened would get its number, and with it what is printed.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def say(text: str) -> None:
    """Prints a text at once, on the first rank only, with control characters escaped."""
    if _is_first_rank():
        print(printable(text), flush=True)  # noqa: T201  (the one place that does)


def _is_first_rank() -> bool:
    # Lightning keeps the rank. Verbs that never import it run in one process.
    lightning = sys.modules.get("lightning_utilities.core.rank_zero")
    return lightning is None or not getattr(lightning.rank_zero_only, "rank", 0)


def duration(seconds: object) -> str:
    """Formats seconds for people: `48 s`, `3 min 20 s`, `2 h 05 min`; `-` for anything but a number."""
    if not isinstance(seconds, int | float):
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
