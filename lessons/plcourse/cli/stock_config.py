"""Adapts configs of a stock LightningCLI, which have keys at the top level that those of the suite have elsewhere.

There, ``optimizer`` and ``lr_scheduler`` stand beside ``model``. Models of the suite have them as arguments; so can
models of a user. For any other model Lightning configures the optimizer, as it does in a stock LightningCLI.
"""

import inspect
import re
from pkgutil import resolve_name
from typing import Any

from plcourse.cli.known_keys import SET_HERE
from plcourse.cli.request import Request
from plcourse.console import say
from plcourse.console.flags import as_flags
from plcourse.errors import UserError
from plcourse.runs import allowlist
from plcourse.runs.config_yaml import read_tree, write_tree

OPTIMIZERS = ("optimizer", "lr_scheduler")
_CONFIG = "--config="
_MODEL_FLAGS = ("--model", "--model.class_path")


def adapt(request: Request) -> bool:
    """Changes the arguments of a request to those of the suite's parser.

    Returns:
        Whether Lightning must configure the optimizer, because the model has no argument for it.

    Raises:
        UserError: Lightning would ignore ``lr_scheduler``, because there is no ``optimizer``.
    """
    model = _model_class(request)
    is_own = model is not None and not model.__module__.startswith("plcourse.")
    by_lightning = is_own and not any(_takes(model, name) for name in OPTIMIZERS)
    adapted: list[str] = []
    found: set[str] = set()
    for word in request.arguments:
        if word.startswith(_CONFIG):
            tree, flags = _split(read_tree(word.removeprefix(_CONFIG)))
            adapted.append(_CONFIG + write_tree(tree))
            request.moved += [f"--model.init_args.{flag.removeprefix('--')}" for flag in flags]
        else:
            flags = [word]
        for flag in flags:
            name = _top(flag.removeprefix("--")) if flag.startswith("--") else ""
            found |= {name} & {*OPTIMIZERS}
            moves = name in OPTIMIZERS and not by_lightning
            adapted.append(f"--model.init_args.{flag.removeprefix('--')}" if moves else flag)
    request.arguments = adapted
    if by_lightning and found == {"lr_scheduler"}:
        raise UserError("lr_scheduler has no effect without optimizer, because the model takes neither: set both")
    return by_lightning and bool(found)


def _split(tree: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns a config without the keys of a stock one, and its settings of optimizers as flags."""
    optimizers: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for key, value in tree.items():
        if _top(key) in OPTIMIZERS:
            optimizers |= {} if value is None else {key: value}
        elif key not in SET_HERE:
            rest[key] = value
        elif value not in (None, SET_HERE[key]):
            say(f"warning: {key} {value} has no effect, because plcourse sets it itself")
    return rest, as_flags(optimizers)


def _top(key: str) -> str:
    return key.partition("=")[0].partition(".")[0]


def _model_class(request: Request) -> Any:
    """Returns the class of the last model that a request names; None if there is none or it cannot be imported."""
    name: Any = None
    before = ""
    for word in request.arguments:
        flag, _, value = word.partition("=")
        if word.startswith(_CONFIG):
            name = _class_in(read_tree(value).get("model")) or name
        elif flag in _MODEL_FLAGS and "=" in word:
            name = _named(value)
        elif before in _MODEL_FLAGS:
            name = _named(word)
        before = word
    if not isinstance(name, str) or "." not in name or not allowlist.admits(name, request.trusted):
        return None
    try:
        found = resolve_name(name)
    except Exception:  # whatever the user's module raises; the parser reports it
        return None
    return found if inspect.isclass(found) else None


def _class_in(model: object) -> object:
    return model.get("class_path") if isinstance(model, dict) else model


def _named(value: str) -> str:
    """Returns the class in the value of a flag, which is its name or YAML on one line."""
    inside = re.search(r"""\bclass_path["']?:\s*["']?([\w.]+)""", value)
    return inside[1] if inside else value


def _takes(model: Any, argument: str) -> bool:
    """Returns whether a constructor has an argument, or passes it on to that of a base class."""
    for base in model.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters
        if argument in parameters:
            return True
        if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
            return False
    return False
