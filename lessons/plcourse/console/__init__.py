"""What a person sees on standard output. No torch."""

import sys
from typing import Any

from plcourse.errors import printable


def say(text: str) -> None:
    """Prints a line at once, on the first rank only; control characters from names of others are escaped."""
    if _is_first_rank():
        print(printable(text), flush=True)  # noqa: T201  (the one place that does)


def _is_first_rank() -> bool:
    # Lightning keeps the rank. Verbs that only look never import Lightning, and run in one process.
    lightning = sys.modules.get("lightning_utilities.core.rank_zero")
    return lightning is None or not getattr(lightning.rank_zero_only, "rank", 0)


def duration(seconds: Any) -> str:
    """Formats seconds as a person says them: `48 s`, `3 min 20 s`, `2 h 05 min`; `-` for anything but a number."""
    if not isinstance(seconds, int | float):
        return "-"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
