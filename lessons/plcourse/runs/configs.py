"""Finds config files by name or path and reads their text. No torch."""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from plcourse import catalog
from plcourse.errors import UserError, nearest

MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class ConfigSource:
    """The text of a config file and where it came from.

    Args:
        name: `ddp/two_processes` for a packaged config, the path as it was given for any other.
        label: the path that messages show.
        text: the whole file.
        packaged: whether it is one of the suite's own files.
    """

    name: str
    label: str
    text: str
    packaged: bool

    @property
    def run_name(self) -> str:
        """The folder of its runs below the runs' root: the packaged name, else `own/<file name>`."""
        return self.name if self.packaged else own_name(self.name)


def own_name(name: str) -> str:
    """Returns a safe `own/<file name>` for the runs of a user's config, whatever the path contains.

    The name has no separators, control characters or leading dots, and its length suits every file system.
    """
    if name.startswith(("/dev/", "/proc/")):  # the name that the shell gives a pipe means nothing
        return "own/pipe"
    stem = re.sub(r"\.ya?ml$", "", re.split(r"[/\\]", name.rstrip("/\\"))[-1])
    safe = re.sub(r"[^\w.-]+", "_", stem).strip(".-_")
    return f"own/{safe.encode()[:100].decode(errors='ignore') or 'config'}"


def find_config(name: str) -> ConfigSource:
    """Reads a config given by its path or packaged name, with or without `.yaml`.

    An existing file takes precedence over a packaged config of the same name. Pipes such as `/dev/fd/63` work.

    Raises:
        UserError: the name is unknown or a folder, or the file is unreadable, larger than 1 MiB or not UTF-8.
    """
    packaged = name.removesuffix(".yaml")
    mode = _mode(name)
    if mode is not None and not stat.S_ISDIR(mode):
        own = _packaged_name(Path(name))
        return ConfigSource(own or name, name, _read(name), packaged=own is not None)
    if packaged in catalog.config_names():
        path = catalog.config_path(packaged)
        return ConfigSource(packaged, str(path), _read(path), packaged=True)
    if packaged in catalog.sweep_names():
        raise UserError(f"'{packaged}' is a sweep, not the config of a run: plcourse sweep -c {packaged}")
    if name in {lesson.key for lesson in catalog.LESSONS}:
        known = ", ".join(catalog.config_names(name)) or "none yet"
        raise UserError(f"'{name}' is a lesson, not a config; its configs are {known}")
    if mode is not None:
        raise UserError(_folder_message(name))
    hint = nearest(packaged, catalog.config_names())
    raise UserError(f"{name!r} is neither a file nor a packaged config (see `plcourse ls`){hint}")


def resolved_path(name: str) -> Path:
    """Returns the file with the complete form of a packaged config, which contains every default.

    Args:
        name: a packaged name, with or without `.yaml`.

    Raises:
        UserError: the config does not exist, or this installation lacks the file.
    """
    name = name.removesuffix(".yaml")
    if name not in catalog.config_names():
        hint = nearest(name, catalog.config_names())
        raise UserError(f"{name!r} is not a packaged config (see `plcourse ls`){hint}")
    path = catalog.resolved_path(name)
    if not path.is_file():
        raise UserError(f"this installation has no resolved {name}; see `plcourse fit -c {name} --print_config`")
    return path


def _mode(name: str) -> int | None:
    """The mode of the file at a path; None where nothing exists."""
    try:
        return os.stat(name).st_mode  # noqa: PTH116  (a Path would turn "./x" into "x" and "" into ".")
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise UserError(f"cannot read config {name!r}: {error.strerror}") from error


def _read(path: str | Path) -> str:
    try:
        with open(path, "rb") as file:  # noqa: PTH123  (as given: "/dev/fd/63" must not be resolved)
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read config '{path}': {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise UserError(f"config '{path}' is larger than 1 MiB; is it a config?")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 text (byte 0x{data[error.start]:02x})") from error


def _packaged_name(path: Path) -> str | None:
    """The packaged name of a file that is one of the suite's own configs."""
    path = path.resolve()
    name = f"{path.parent.name}/{path.stem}"
    is_own = name in catalog.config_names() and path == catalog.config_path(name).resolve()
    return name if is_own else None


def _folder_message(name: str) -> str:
    if (Path(name) / "run.json").is_file():
        file = f"{name.rstrip('/')}/config.yaml"
        return f"config {name!r} is the folder of a run; use `--run {name}`, or its file with `-c {file}`"
    return f"config {name!r} is a folder; name a YAML file or a packaged config (see `plcourse ls`)"
