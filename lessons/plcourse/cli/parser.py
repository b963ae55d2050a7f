"""The argument parser of the running verbs, which explains each error in one line.

The line has file and line number, key, what is wrong, and the nearest known name. jsonargparse creates a parser for
each nested class and wraps the error of the inner parser into that of the outer one. The innermost error is the most
precise, so `Explainer` remembers the inner errors and repeats them outside.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import pytorch_lightning as pl
import yaml
from jsonargparse import get_loader, set_loader
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.loggers import Logger
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.strategies import Strategy
from torch import nn, optim

from plcourse import catalog
from plcourse.cli.class_help import class_help
from plcourse.cli.known_keys import unknown_flag, unknown_setting
from plcourse.cli.request import OTHER_FLAGS, OWN_FLAGS, unexpected
from plcourse.errors import UserError, nearest
from plcourse.runs import allowlist
from plcourse.runs.config_yaml import check_nested, locate_key, parse_config
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
_LONG = 1000  # characters; shorter text without aliases needs no check
_GIVEN = re.compile(r"(?:Given value|Got value): (.*)")


class Explainer:
    """Explains the errors of one parse.

    Args:
        verb: the verb.
        sources: the configs that are merged, which give files and lines.

    Attributes:
        flags: the dotted names of the verb's options, set when the parser is built.
    """

    def __init__(self, verb: str = "", sources: Sequence[ConfigSource] = ()) -> None:
        self.verb, self.sources = verb, sources
        self.flags: list[str] = []
        self._explained: list[UserError] = []

    def explain(self, message: str, options: list[str]) -> UserError:
        """Returns the one-line error for a message of a parser with the given options, as dotted names."""
        inner = next((error for error in self._explained if str(error) in message), None)
        error = inner or self._explain(message, options)
        self._explained.append(error)
        return error

    def refusal(self, key: str, value: str, text: str) -> UserError:
        """Returns the error that a value is refused, with its file and line; `text` says why."""
        return self._error(key, value, text)

    def _explain(self, message: str, options: list[str]) -> UserError:
        key = match.group(1) if (match := _KEY.search(message)) else ""
        if match := _DENIED.search(message):
            return allowlist.refused(match.group(1), self._where(key, match.group(1)))
        if match := _UNRECOGNIZED.search(message):
            return self._unknown_flag(match.group(1).split()[0])
        if match := _UNKNOWN.search(message):
            return self._unknown_key(match.group(1), options)
        if match := _MISSING.search(message):
            missing = (match.group(1) or match.group(2)).removeprefix(f"{self.verb}.")
            no_model = "no model given: name a config with -c (see `plcourse ls`), or a class with --model"
            return UserError(no_model if missing == "model" else f"'{missing}' is missing, and it has no default")
        if match := _NO_CLASS.search(message):
            name = match.group(1)
            hint = nearest(name, [*catalog.CLASSES, *_subclasses(message)])
            hint = hint or "; give the module of a class of your own, as in mine.Net"
            return self._error(key, name, f"unknown class '{name}'{hint}")
        if match := _SUBCLASS.search(message):
            given, wanted = match.groups()
            return self._error(key, given, f"{given} is not a subclass of {wanted.rpartition('.')[2]}")
        if match := _IMPORT.search(message):
            module, holder, name = match.groups()
            if module:
                text = f"module '{module}' not found; check its name, and that it is installed"
                return self._error(key, module, text)
            known = [each for each in dir(sys.modules.get(holder)) if not each.startswith("_")]
            return self._error(key, f"{holder}.{name}", f"{holder} has no class '{name}'{nearest(name, known)}")
        return self._wrong_value(key, message)

    def _unknown_flag(self, word: str) -> UserError:
        flag = word.split("=")[0]
        if not flag.startswith("-"):
            return unexpected(word, self.verb)
        if several := self._several(flag.lstrip("-").removeprefix("model.init_args.").partition(".")[0]):
            return UserError(f"{flag} is for models with one optimizer; this one has {' and '.join(several)}")
        return unknown_flag(flag, [*OWN_FLAGS, *OTHER_FLAGS, "--optimizer", *(f"--{name}" for name in self.flags)])

    def _several(self, name: str) -> list[str]:
        """Returns the flags for the optimizers or schedules of a model that has more than one."""
        if name not in ("optimizer", "lr_scheduler"):
            return []
        keys = [path for source in self.sources for path, _ in _leaves(parse_config(source))]
        own = [key for key in keys if key.startswith("model.init_args.") and key.count(".") == 2]
        return [f"--{key}" for key in dict.fromkeys(own) if key.endswith(f"_{name}")]

    def _unknown_key(self, key: str, options: list[str]) -> UserError:
        # A dotted key comes from the outermost parser, which knows all flags; a plain one is the argument of a class.
        if "subcommand" in options or key.partition(".")[0] in {flag.partition(".")[0] for flag in self.flags}:
            options = self.flags
        group, _, name = key.rpartition(".")
        prefix = f"{group}." if group else ""
        siblings = {option[len(prefix) :].partition(".")[0] for option in options if option.startswith(prefix)}
        siblings -= {"help", "config", "print_config", "print_shtab"}
        return self._error(key, name, unknown_setting(name, siblings), is_key=True)

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
        """Returns the file and line of a key; jsonargparse may give only its last part, or only its value."""
        last = key.rpartition(".")[2]
        for source in reversed(self.sources):
            for path, found in _leaves(parse_config(source)):
                names_it = path == key or path.rpartition(".")[2] == last
                if (names_it and (is_key or str(found) == value)) or (value and found == value):
                    return locate_key([source], path)
        return ""


class CourseParser(LightningArgumentParser):
    """Lightning's parser with one-line errors and without abbreviated flags."""

    explainer = Explainer()  # set before each parse, on the class: jsonargparse creates the parsers of nested classes

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """Returns a config as text with the catalog names of the suite's classes."""
        text = super().dump(*args, **kwargs)
        return re.sub(
            r"""(?<=class_path)("?: ?"?)([\w.]+)""", lambda found: found[1] + catalog.short_class_name(found[2]), text
        )

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Returns the help, in short for a single class."""
        return class_help(self) or super().format_help(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises a `UserError` instead of printing the usage."""
        raise CourseParser.explainer.explain(message, [action.dest for action in self._actions]) from ex


_read_yaml = get_loader("yaml")


def _read_bounded(text: str) -> Any:
    """Reads the YAML of a flag, or of a file that a config or flag names, unless its aliases or levels are too many."""
    if "*" in text or len(text) > _LONG:
        check_nested(text)
    return _read_yaml(text)


set_loader("yaml", _read_bounded, (yaml.YAMLError,))


def _leaves(tree: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yields every dotted key of a config with its value, which can be a list or mapping."""
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


def _subclasses(message: str) -> list[str]:
    """Returns the names of loaded classes of the expected type, or of all usual types if the message names none."""
    bases = [pl.Callback, Logger, Profiler, Strategy, nn.Module, optim.Optimizer, optim.lr_scheduler.LRScheduler]
    wanted = _NOT_SUBCLASS.findall(message)
    pending: list[type] = [base for base in bases if base.__name__ in wanted] or [base for base in bases if not wanted]
    found: list[str] = []
    while pending:
        cls = pending.pop()
        found.append(cls.__name__)
        pending.extend(cls.__subclasses__())
    return found
