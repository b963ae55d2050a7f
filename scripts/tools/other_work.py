"""How many cores other processes keep busy beside a measurement, so that a record can say whether it ran alone."""

import os
import resource
import time
from pathlib import Path

ALONE = 0.1
"""The share of the machine that others may take beside a measurement whose times count."""


class OtherWork:
    """Watches from its making on; Linux only (proc(5), /proc/stat)."""

    def __init__(self) -> None:
        self._started = _now()

    def seconds(self) -> float:
        """Seconds on the wall since the watch began."""
        return time.monotonic() - self._started[0]

    def cores(self) -> float:
        """Cores busy since then, in the mean, less those of the processes that were started here and have ended."""
        wall, busy, own = (now - before for now, before in zip(_now(), self._started, strict=True))
        return max(0.0, round((busy - own) / wall, 2))


def is_alone(cores: float, of: int | None = None) -> bool:
    """Whether so many busy cores, of so many (default: those of this machine), leave a measurement alone."""
    return cores < ALONE * (of or os.cpu_count() or 1)


def _now() -> tuple[float, float, float]:
    """Seconds: the clock, all cores' work for whomever, and that of the children that have ended."""
    user, nice, system, _, _, *interrupts = map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9])
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
    return time.monotonic(), busy, used.ru_utime + used.ru_stime
