"""Describes where a run was made: command, versions, git, hardware and process. No torch."""

import contextlib
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

_PACKAGES = ("plcourse", "torch", "torchvision", "pytorch-lightning", "jsonargparse", "torchmetrics", "numpy")


class Process(NamedTuple):
    """A process that may be on another machine."""

    host: str | None
    pid: int | None
    start: str | None  # distinguishes the process from a later one with the same number

    @classmethod
    def current(cls) -> "Process":
        """Returns this process."""
        return cls(socket.gethostname(), os.getpid(), process_start(os.getpid()))

    @property
    def lives(self) -> bool | None:
        """Whether it exists; None for one of another machine, or where the system does not tell."""
        if self.host != socket.gethostname() or not isinstance(self.pid, int):
            return None
        began = process_start(self.pid)
        if began is None:
            return None
        return began != "" and self.start in (None, began)


class Environment(TypedDict):
    """The command, the versions of packages, and the machine."""

    command: str
    versions: dict[str, str | None]
    git: dict[str, Any] | None  # commit and dirty flag of the current folder's repository
    hardware: dict[str, Any]  # hostname, platform, cpu, cores and memory in GiB
    pid: int
    pid_start: str | None  # distinguishes the process from a later one with the same number


def environment() -> Environment:
    """Returns the environment of this process."""
    program = Path(sys.argv[0]).name
    return {
        "command": shlex.join(["plcourse" if program == "__main__.py" else program, *sys.argv[1:]]),
        "versions": {"python": platform.python_version(), **{name: package_version(name) for name in _PACKAGES}},
        "git": _git_state(),
        "hardware": {
            "hostname": socket.gethostname(),
            "platform": platform.platform(),
            "cpu": _cpu_model() or platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "memory_gib": _memory_gib(),
        },
        "pid": os.getpid(),
        "pid_start": process_start(os.getpid()),
    }


def process_start(pid: int) -> str | None:
    """Returns when a process began, in the system's format; "" if it does not exist, None if that is unknown."""
    proc = Path("/proc")
    if (proc / "self/stat").exists():
        try:
            # The second field, the program's name in parentheses, may contain blanks and parentheses.
            fields = (proc / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
            boot = (proc / "sys/kernel/random/boot_id").read_text().strip()
        except OSError:
            return None if _exists(pid) else ""
        return "" if fields[0] in "ZX" else f"{boot} {fields[19]}"
    if os.name != "posix":
        return None
    listing = _output("env", "LC_ALL=C", "ps", "-A", "-o", "pid=,lstart=")
    if listing is None:
        return None
    pairs = (line.strip().partition(" ") for line in listing.splitlines())
    return next((began.strip() for number, _, began in pairs if number == str(pid)), "")


def _exists(pid: int) -> bool:
    """Returns whether a process exists, even where /proc hides those of other users."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # not allowed to send it a signal
        pass
    return True


def _output(*command: str, **variables: str) -> str | None:
    """Returns the output of a command; None if it fails, takes over 2 s or does not exist."""
    environ = {**os.environ, **variables}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=2, check=False, env=environ)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _git_state() -> dict[str, Any] | None:
    """Returns the commit and the dirty flag without starting a program that the repository's settings name.

    Such programs are filters, file system monitors, hooks, and what fetches the objects of a partial clone.
    """
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return None
    names = (_git("config", "-z", "--name-only", "--get-regexp", r"^filter\.") or "").split("\0")
    filters = {name.rpartition(".")[0] for name in names if name}
    changes = None
    if not any("=" in each for each in filters):  # `git -c` cannot set these
        off = [f"{each}.{key}" for each in sorted(filters) for key in ("clean=", "process=", "required=false")]
        options = [word for setting in off for word in ("-c", setting)]
        changes = _git(*options, "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(*arguments: str) -> str | None:
    quiet = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-c", f"core.hooksPath={os.devnull}")
    return _output("git", *quiet, *arguments, GIT_ALLOW_PROTOCOL="none", GIT_NO_LAZY_FETCH="1")


def package_version(package: str) -> str | None:
    """Returns the version of a package, None if it is not installed."""
    from importlib import metadata  # here, because it takes 30 ms

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str | None:
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:(.*)", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
        return found and found[1].strip()
    return None


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None
