"""The help on one class, as `--model.help NAME` prints it: what a person can set, and no other class's settings."""

import inspect
import re
from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from typing import Any, get_args, get_origin

from jsonargparse import ArgumentParser, Namespace

from plcourse import catalog
from plcourse.console.flags import inline
from plcourse.console.layout import broken, width

_INDENT = " " * 6
_HELP = ".help"


def class_help(parser: ArgumentParser) -> str | None:
    """Returns the help of a parser that jsonargparse has made for one class; None for another parser."""
    asked = re.fullmatch(r"Help for --\S+\.help=(\S+)", parser.description or "")
    if asked is None:
        return None
    summary = (inspect.getdoc(resolve_name(asked[1])) or "").partition("\n\n")[0]
    limit = width()
    lines = broken(f"{catalog.short_class_name(asked[1])}: {' '.join(summary.split())}", limit)
    actions = {action.option_strings[0]: action for action in parser._actions if action.option_strings}
    for flag, action in actions.items():
        kind = getattr(action, "_typehint", None)
        if kind is None or flag.endswith(_HELP):
            continue
        needed = action.default is None and "null" not in _kind(kind) and kind is not Any
        value = "required" if needed else f"default {_shown(action.default)}"
        lines += ["", *broken(f"  {flag} ({_kind(kind)}; {value})", limit, _INDENT)]
        lines += broken(_INDENT + " ".join((action.help or "").split()), limit, _INDENT) if action.help else []
    if several := [flag for flag in actions if flag.endswith(_HELP)]:
        lines += ["", *broken(f"Classes to put there have their own help: {', '.join(several)} NAME", limit)]
    return "\n".join([*lines, ""])


def _kind(kind: Any) -> str:
    """Returns a type as people write it, without modules: ``int or null``, ``Optimizer``."""
    if kind is type(None):
        return "null"
    if get_origin(kind) is Callable and get_args(kind):
        return _kind(get_args(kind)[-1])  # the class that a callable builds
    if isinstance(kind, type) and not get_args(kind):
        return kind.__name__
    if "Literal" in str(get_origin(kind)):
        return " or ".join(map(str, get_args(kind)))
    if "Union" in str(get_origin(kind)):
        return " or ".join(map(_kind, get_args(kind)))
    return re.sub(r"(?:\w+\.)+(\w+)", r"\1", str(kind)).replace("NoneType", "null")


def _shown(value: Any) -> str:
    if isinstance(value, Namespace):
        value = value.as_dict()
    if isinstance(value, Mapping) and "class_path" in value:
        given = ", ".join(f"{name}={_shown(each)}" for name, each in dict(value.get("init_args") or {}).items())
        return f"{str(value['class_path']).rpartition('.')[2]}({given})"
    if isinstance(value, bool | int | float | str | list | tuple | dict | None):
        return inline(list(value) if isinstance(value, tuple) else value)
    return getattr(value, "__name__", type(value).__name__)
