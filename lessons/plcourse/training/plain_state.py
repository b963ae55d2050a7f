"""Turns NumPy arrays and dataclasses in the state of a callback into plain types, which a safe load accepts, and back.

Plain types are what `torch.load` reads with ``weights_only``, which executes no code. Reading a dataclass back executes
none either: its class must be imported already, and its attributes are set without a call of its methods.
"""

import io
import sys
from dataclasses import fields, is_dataclass
from operator import attrgetter
from typing import Any

import numpy as np

from plcourse.errors import UserError

_KIND, _CONTENT = "plcourse_kind", "content"
_ARRAY, _SCALAR = "numpy.ndarray", "numpy.generic"


def to_plain(value: Any) -> Any:
    """Returns nested dicts, lists and tuples with each NumPy array, NumPy number and dataclass replaced by a dict."""
    if type(value) is dict:
        return {key: to_plain(each) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(to_plain, value))
    if isinstance(value, np.generic) or (type(value) is np.ndarray and not value.dtype.hasobject):
        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        return {_KIND: _ARRAY if isinstance(value, np.ndarray) else _SCALAR, _CONTENT: file.getvalue()}
    if is_dataclass(value) and not isinstance(value, type) and _found(name := _name(type(value))) is type(value):
        return {_KIND: name, _CONTENT: to_plain(_attributes(value))}
    return value


def from_plain(value: Any) -> Any:
    """Returns what `to_plain` was given.

    Raises:
        UserError: the class of a dataclass is not imported, or has changed.
    """
    if type(value) in (list, tuple):
        return type(value)(map(from_plain, value))
    if type(value) is not dict:
        return value
    if value.keys() != {_KIND, _CONTENT}:
        return {key: from_plain(each) for key, each in value.items()}
    name, content = value[_KIND], value[_CONTENT]
    if name in (_ARRAY, _SCALAR):
        array = np.load(io.BytesIO(content), allow_pickle=False)
        return array if name == _ARRAY else array[()]
    kind: Any = _found(name)
    if kind is None or not is_dataclass(kind):
        raise UserError(f"the checkpoint contains a {name}, which is no dataclass of an imported module")
    made = object.__new__(kind)  # pyright: ignore[reportArgumentType]  (a class)
    for attribute, each in from_plain(content).items():
        if hasattr(made, "__dict__"):
            vars(made)[attribute] = each
        elif attribute in {field.name for field in fields(kind)}:
            object.__setattr__(made, attribute, each)
    return made


def _attributes(value: Any) -> dict[str, Any]:
    if hasattr(value, "__dict__"):
        return dict(vars(value))
    return {field.name: getattr(value, field.name) for field in fields(value) if hasattr(value, field.name)}


def _name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _found(name: str) -> Any:
    """Returns the class of a name, which is imported already and does nothing when it is deleted; None otherwise."""
    module, _, path = name.partition(":")
    try:
        kind = attrgetter(path)(sys.modules[module])
    except (KeyError, AttributeError):
        return None
    return kind if isinstance(kind, type) and not hasattr(kind, "__del__") else None
