"""Measures how many cores other processes use during a measurement, so that a record can say whether it ran alone."""

import os
import resource
import time
from pathlib import Path

ALONE = 0.1
"""The fraction of the machine that other processes may use during a measurement that counts as alone."""


class OtherWork:
    """Measures other work from its construction on; Linux only (proc(5), /proc/stat)."""

    def __init__(self) -> None:
        self._started = _now()

    def seconds(self) -> float:
        """Returns the seconds since construction."""
        return time.monotonic() - self._started[0]

    def cores(self) -> float:
        """Returns the mean number of busy cores since then, without the processes started here that have ended."""
        wall, busy, own = (now - before for now, before in zip(_now(), self._started, strict=True))
        return max(0.0, round((busy - own) / wall, 2))


def is_alone(cores: float, of: int | None = None) -> bool:
    """Whether a measurement beside this many busy cores counts as alone, out of ``of`` (default: all cores)."""
    return cores < ALONE * (of or os.cpu_count() or 1)


def _now() -> tuple[float, float, float]:
    """Returns three times in seconds: the clock, the work of all cores, and that of children that have ended."""
    user, nice, system, _, _, *interrupts = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
    return time.monotonic(), busy, used.ru_utime + used.ru_stime
