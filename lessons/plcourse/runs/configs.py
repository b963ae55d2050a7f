"""Finds config files by name or path, and reads their text and the comment at their top. No torch."""

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from plcourse import catalog
from plcourse.errors import UserError, nearest

MAX_BYTES = 1 << 20
NEEDS = ("nothing", "gpu", "two nodes", "a file", "a run")


@dataclass(frozen=True)
class ConfigSource:
    """The text of a config file and where it came from."""

    name: str  # `ddp/two_processes` for a packaged config, the path as it was given for any other
    label: str  # the path that messages show
    text: str
    packaged: bool  # whether it is one of the suite's own files

    @property
    def run_name(self) -> str:
        """The folder of its runs below the runs' root: the packaged name, else `own/<file name>`."""
        return self.name if self.packaged else own_name(self.name)


@dataclass(frozen=True)
class ConfigHeader:
    """The comment at the top of a config; `parse_header` describes its format."""

    command: str  # the command that runs it, one line
    shows: str  # what the run shows, one or two sentences
    verbs: tuple[str, ...]  # the verbs that it is made for
    needs: tuple[str, ...]  # what must exist before it runs; empty if it runs anywhere


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
        if (Path(name) / "run.json").is_file():
            file = f"{name.rstrip('/')}/config.yaml"
            raise UserError(f"config {name!r} is the folder of a run; use `--run {name}`, or its file with `-c {file}`")
        raise UserError(f"config {name!r} is a folder; name a YAML file or a packaged config (see `plcourse ls`)")
    hint = nearest(packaged, catalog.config_names())
    raise UserError(f"{name!r} is neither a file nor a packaged config (see `plcourse ls`){hint}")


def resolved_path(name: str) -> Path:
    """Returns the file with the complete form of a packaged config, which contains every default.

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


def parse_header(source: ConfigSource) -> ConfigHeader:
    """Reads the comment at the top of a config.

    The first line is a command that begins with `plcourse` or `torchrun`. Free text follows, which says what the run
    shows, and two lines end the comment::

        # plcourse fit -c ddp/two_processes --then test
        # Two gloo processes train a small ResNet on mnist5k; the same batches, losses and weights as
        # one process.
        # verbs: fit, validate, test, predict
        # needs: nothing

    `verbs` lists running verbs. `needs` is `nothing`, or lists any of `gpu`, `two nodes`, `a file` and `a run`.
    Comments after an empty line are ignored.

    Raises:
        UserError: a part is missing, or a word is not one of the above.
    """
    comment = takewhile(lambda line: line.startswith("#"), source.text.splitlines())
    lines = [line.lstrip("#").strip() for line in comment]
    if not lines or not lines[0].startswith(("plcourse ", "torchrun ")):
        raise UserError(f"{source.label}:1: the first line is not a comment with the command that runs this config")
    if len(lines) < 4 or not lines[-2].startswith("verbs:") or not lines[-1].startswith("needs:"):
        raise UserError(
            f"{source.label}: the comment at the top must contain the command, what it shows, `verbs:` and `needs:`"
        )
    verbs = _words(source, lines[-2], catalog.verbs_of("run"), len(lines) - 1)
    needs = _words(source, lines[-1], NEEDS, len(lines))
    if "nothing" in needs and len(needs) > 1:
        raise UserError(f"{source.label}:{len(lines)}: `needs:` is either `nothing` or what is needed, not both")
    return ConfigHeader(lines[0], " ".join(lines[1:-2]), verbs, tuple(word for word in needs if word != "nothing"))


def _words(source: ConfigSource, line: str, known: Sequence[str], number: int) -> tuple[str, ...]:
    key, _, rest = line.partition(":")
    words = tuple(word.strip() for word in rest.split(","))
    for word in words:
        if word not in known:
            hint = nearest(word, known)
            raise UserError(
                f"{source.label}:{number}: `{key}:` has {word!r}, which is not one of {', '.join(known)}{hint}"
            )
    return words


def _mode(name: str) -> int | None:
    """Returns the mode of the file at a path; None if nothing exists."""
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
    """Returns the packaged name of a file that is one of the suite's own configs."""
    path = path.resolve()
    name = f"{path.parent.name}/{path.stem}"
    is_own = name in catalog.config_names() and path == catalog.config_path(name).resolve()
    return name if is_own else None
