"""Turns what jsonargparse says of a bad value into one line: where, the key, what would be right, the nearest name.

jsonargparse parses a nested class with a parser of its own and wraps that parser's error into the next one's, level by
level. The innermost error knows best what is wrong, so `Explainer` keeps what was said inside and repeats it outside.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from plcourse import catalog
from plcourse.errors import UserError, nearest
from plcourse.runs import allowlist
from plcourse.runs.config_keys import locate_key
from plcourse.runs.config_yaml import parse_config
from plcourse.runs.configs import ConfigSource

_KEY = re.compile(r'[Pp]arser key "([^"]+)"')
_UNKNOWN = re.compile(
    r"(?:Option|Key|Group '[^']*' does not accept option|Subcommand '[^']*' does not accept option) '([^']+)'"
)
_UNRECOGNIZED = re.compile(r"unrecognized arguments: (.*)", re.IGNORECASE | re.DOTALL)
_NO_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
_DENIED = re.compile(r"Importing '([^']+)' is not allowed")
_SUBCLASS = re.compile(r"Expected '([^']+)' to be a subclass of <class '([^']+)'>")
_NOT_SUBCLASS = re.compile(r"Not a valid subclass of (\w+)")
_EXPECTED = re.compile(r"Expected an? (<class '[^']+'>|typing\.Literal\[[^\]]*\]|[^\n.]+)")
_MISSING = re.compile(r"(?:Key|Option) \"?'?([\w.]+)'?\"? is required|required: ([\w.]+)")
_IMPORT = re.compile(r"No module named '([^']+)'|module '([^']+)' has no attribute '([^']+)'")
_GIVEN = re.compile(r"(?:Given value|Got value): (.*)")


class Explainer:
    """Explains the errors of one parse.

    Args:
        verb: the verb that is parsed for.
        sources: the configs that are merged, to name files and lines.
        flags: the verb's dotted option names, filled in when the parser is built.
    """

    def __init__(self, verb: str = "", sources: Sequence[ConfigSource] = (), flags: Iterable[str] = ()) -> None:
        self.verb, self.sources, self.flags = verb, sources, list(flags)
        self._said: list[UserError] = []

    def explain(self, message: str, options: Iterable[str]) -> UserError:
        """The one-line error for a message.

        Args:
            message: what jsonargparse said, any number of lines.
            options: the dotted names that the parser in question has.
        """
        inner = next((error for error in self._said if str(error) in message), None)
        error = inner or self._explain(message, list(options))
        self._said.append(error)
        return error

    def check_top_level(self) -> None:
        """Refuses unknown keys at the top of a config, which jsonargparse overlooks when they hold an empty mapping.

        Raises:
            UserError: the first such key.
        """
        known = {flag.partition(".")[0] for flag in self.flags}
        for source in self.sources:
            for key in parse_config(source):
                if key.partition(".")[0].removesuffix("+") not in known:
                    raise self._unknown_key(key, self.flags)

    def _explain(self, message: str, options: list[str]) -> UserError:
        key = match.group(1) if (match := _KEY.search(message)) else ""
        if match := _DENIED.search(message):
            return allowlist.refused(match.group(1), self._where(key, match.group(1)))
        if match := _UNRECOGNIZED.search(message):
            return self._unknown_flag(match.group(1).split()[0])
        if match := _UNKNOWN.search(message):
            return self._unknown_key(match.group(1), options)
        if match := _MISSING.search(message):
            return self._missing(next(group for group in match.groups() if group).removeprefix(f"{self.verb}."))
        if match := _NO_CLASS.search(message):
            known = [*catalog.CLASSES, *_subclasses(message)]
            own = "" if nearest(match.group(1), known) else "; name a class of your own with its module, as in mine.Net"
            return self._error(
                key, match.group(1), f"no class '{match.group(1)}' is known{nearest(match.group(1), known)}{own}"
            )
        if match := _SUBCLASS.search(message):
            given, wanted = match.groups()
            return self._error(key, given, f"{given} is no {wanted.rpartition('.')[2]}; name a class derived from it")
        if match := _IMPORT.search(message):
            module, holder, name = match.groups()
            if module:
                return self._error(key, module, f"there is no module '{module}'; is it spelt right, and installed?")
            return self._error(
                key, f"{holder}.{name}", f"{holder} has no class '{name}'{nearest(name, _names_in(holder))}"
            )
        return self._wrong_value(key, message)

    def _unknown_flag(self, word: str) -> UserError:
        flag = word.split("=")[0]
        if not flag.startswith("-"):
            return UserError(f"'{word}' belongs to no flag; a value with spaces needs quotes")
        if several := self._several(flag.lstrip("-").removeprefix("model.init_args.").partition(".")[0]):
            return UserError(f"{flag} means a model with one; this one has {' and '.join(several)}")
        own = (
            "run",
            "runs_root",
            "then",
            "trust",
            "allow_untrained",
            "format",
            "preprocess",
            "probabilities",
            "batch_sizes",
            "max_drop",
            "opset",
            "strict",
            "config",
            "optimizer",
            "print_config",
            "help_all",
        )
        known = [f"--{name}" for name in (*own, *self.flags)]
        return UserError(f"no flag {flag}{nearest(flag, known)}; `--help_all` lists every flag")

    def _several(self, name: str) -> list[str]:
        """The flags for the networks' own optimizers or schedules, where the model has more than one."""
        if name not in ("optimizer", "lr_scheduler"):
            return []
        keys = [path for source in self.sources for path, _ in _leaves(parse_config(source))]
        own = [key for key in keys if key.startswith("model.init_args.") and key.count(".") == 2]
        return [f"--{key}" for key in dict.fromkeys(own) if key.endswith(f"_{name}")]

    def _unknown_key(self, key: str, options: list[str]) -> UserError:
        # A dotted key comes from the outermost parser, which knows all flags; a plain one is a class's argument.
        if "subcommand" in options or key.partition(".")[0] in {flag.partition(".")[0] for flag in self.flags}:
            options = self.flags
        group, _, name = key.rpartition(".")
        prefix = f"{group}." if group else ""
        siblings = {option[len(prefix) :].partition(".")[0] for option in options if option.startswith(prefix)}
        siblings -= {"help", "config", "print_config", "print_shtab"}
        hint = nearest(name, siblings) or f"; there are {', '.join(sorted(siblings))}"
        return self._error(key, name, f"there is no '{name}' here{hint}", is_key=True)

    def _missing(self, key: str) -> UserError:
        if key == "model":
            return UserError("no model: name a config with -c (see `plcourse ls`), or a class with --model")
        return UserError(f"'{key}' must be given: it has no default")

    def _wrong_value(self, key: str, message: str) -> UserError:
        given = match.group(1).strip() if (match := _GIVEN.search(message)) else ""
        wanted = list(dict.fromkeys(_plain(found) for found in _EXPECTED.findall(message)))
        wanted = [name for name in wanted if not name.startswith(("dot import path", "path but", "one of:"))]
        if key and wanted and len(given) <= 80:
            return self._error(key, given, f"'{given}' is not {' or '.join(wanted)}")
        line = " ".join(part.strip() for part in message.splitlines() if part.strip())
        return self._error("" if key and key in line else key, "", line[:300])

    def _error(self, key: str, value: str, text: str, is_key: bool = False) -> UserError:
        where = self._where(key, value, is_key)
        return UserError(": ".join(part for part in (where, key, text) if part))

    def _where(self, key: str, value: str, is_key: bool = False) -> str:
        """The file and line of a key, which may be known by its last part only, and then by its value."""
        last = key.rpartition(".")[2]
        for source in reversed(self.sources):
            for path, found in _leaves(parse_config(source)):
                names_it = path == key or path.rpartition(".")[2] == last
                if (names_it and (is_key or str(found) == value)) or (value and found == value):
                    return str(locate_key([source], path) or "")
        return ""


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every dotted key of a config with its value, containers included."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, value in items:
        dotted = f"{path}.{name}" if path else str(name)
        yield dotted, value
        yield from _leaves(value, dotted)


def _plain(name: str) -> str:
    name = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", name).replace("NoneType", "null").strip()
    if match := re.fullmatch(r"typing\.Literal\[(.*)\]", name):
        return match.group(1).replace(", ", " or ")
    return name


def _names_in(module: str) -> list[str]:
    import sys

    return [name for name in dir(sys.modules.get(module)) if not name.startswith("_")]


def _subclasses(message: str) -> list[str]:
    """The names of the loaded classes that would have fitted, or might have where the message does not say."""
    import pytorch_lightning as pl
    from pytorch_lightning.loggers import Logger
    from pytorch_lightning.profilers import Profiler
    from pytorch_lightning.strategies import Strategy
    from torch import nn, optim

    bases = [pl.Callback, Logger, Profiler, Strategy, nn.Module, optim.Optimizer, optim.lr_scheduler.LRScheduler]
    wanted = _NOT_SUBCLASS.findall(message)
    pending: list[type] = [base for base in bases if base.__name__ in wanted] or [base for base in bases if not wanted]
    found: list[str] = []
    while pending:
        cls = pending.pop()
        found.append(cls.__name__)
        pending.extend(cls.__subclasses__())
    return found
