"""Writes a run's config as text and checks that reading it gives the same config."""

import json
import warnings
from collections.abc import Iterator, Set
from datetime import timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import register_type

from plcourse.errors import UserError, first_line
from plcourse.runs.config_yaml import expand_class_names, read_tree, write_tree
from plcourse.runs.configs import ConfigSource
from plcourse.runs.differences import differences

Key = tuple[str | int, ...]
_PLAIN = (bool, int, float, str, Path, timedelta, Enum, type(None))


def register_types() -> None:
    """Registers devices and dtypes with jsonargparse, as in `cuda:1` and `torch.float32`."""
    for kind, read in ((torch.device, torch.device), (torch.dtype, _dtype)):
        register_type(
            kind,
            deserializer=read,
            deserializer_exceptions=(ValueError, TypeError, AttributeError, RuntimeError),
            fail_already_registered=False,
        )


def dumped(parser: ArgumentParser, config: Namespace) -> str:
    """Returns a parsed config as complete YAML, without `ckpt_path` and `config`.

    Raises:
        TypeError: JSON cannot express a value.
    """
    complete = config.clone()
    for key in ("ckpt_path", "config"):
        complete.pop(key, None)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "\n?.*Unable to serialize instance")
        text = parser.dump(complete, skip_unset=False, skip_validation=True, format="json")
    header = "".join(f"# {line}\n" for line in getattr(parser, "dump_header", None) or [])
    tree = json.loads(text)
    for key, value in _leaves(complete):
        if isinstance(value, str):
            _keep_text(tree, key, value)
    return header + write_tree(tree)


def repeatable(parser: ArgumentParser, config: Namespace) -> str:
    """Returns a parsed config as YAML that gives the same config when it is read again.

    A default that cannot be written, such as a function of a module that configs may not name, is left out: a reader
    has the same default.

    Raises:
        UserError: a value cannot be read back; the message has its key.
    """
    odd = {_parameter(key): value for key, value in _leaves(config) if not isinstance(value, _PLAIN)}
    functions = {key for key, value in odd.items() if not isinstance(value, torch.device | torch.dtype)}
    problem = ""
    for left_out in (set(), functions, set(odd)):  # as few as possible
        text, problem, lost = _attempt(parser, config, set(odd), left_out)
        if lost:
            text, problem, _ = _attempt(parser, config, set(odd), left_out | lost)
        if not problem:
            return text
    raise UserError(f"config.yaml could not repeat this run: {problem}")


def _attempt(parser: ArgumentParser, config: Namespace, odd: Set[Key], left_out: Set[Key]) -> tuple[str, str, Set[Key]]:
    """Returns a config without some parameters as YAML, why that does not repeat it, and the keys that differ."""
    try:
        text = dumped(parser, _without(config, left_out))
        tree = expand_class_names(read_tree(text), ConfigSource("config.yaml", "config.yaml", text, packaged=False))
        again = parser.parse_args([f"--config={write_tree(tree)}"])
        written = dumped(parser, _without(again, left_out))
    except TypeError:
        return "", "it contains a value that cannot be written", set()
    except UserError as error:
        return "", first_line(error), set()
    if written != text:
        found = differences(read_tree(text), read_tree(written))
        return text, "; ".join(f"{key} {old!r} is read back as {new!r}" for key, (old, new) in found.items()), set()
    lost = {key for key in odd if _at(again, key) != _at(config, key)}
    return text, f"{'.'.join(map(str, min(lost, key=str)))} is not read back as it was" if lost else "", lost


def _leaves(value: object, key: Key = ()) -> Iterator[tuple[Key, object]]:
    if isinstance(value, Namespace | dict):
        pairs = vars(value) if isinstance(value, Namespace) else value
        for name, inner in pairs.items():
            yield from _leaves(inner, (*key, name))
    elif isinstance(value, list | tuple | set):
        for place, inner in enumerate(value):
            yield from _leaves(inner, (*key, place))
    else:
        yield key, value


def _at(value: Any, key: Key) -> object:
    for part in key:
        value = vars(value).get(part) if isinstance(value, Namespace) else value[part]  # pyright: ignore
    return value


def _keep_text(tree: Any, key: Key, text: str) -> None:
    """Restores a text that jsonargparse has written as a number, such as `1e-3`, or taken for a function."""
    *parents, last = key
    try:
        for part in parents:
            tree = tree[part]
        if not isinstance(tree[last], str) or tree[last].startswith("Unable to serialize instance"):
            tree[last] = text
    except (KeyError, IndexError, TypeError):  # written in another form
        return


def _without(value: Any, keys: Set[Key], key: Key = ()) -> Any:
    """Returns a copy of the config without some parameters."""
    if not keys:
        return value
    if isinstance(value, Namespace):
        kept = {name: inner for name, inner in vars(value).items() if (*key, name) not in keys}
        return Namespace({name: _without(inner, keys, (*key, name)) for name, inner in kept.items()})
    if isinstance(value, list):
        return [_without(inner, keys, (*key, place)) for place, inner in enumerate(value)]
    return value


def _parameter(key: Key) -> Key:
    """Returns the key of the parameter that contains a value, such as a list."""
    names = [place for place, part in enumerate(key) if part == "init_args"]
    return key[: names[-1] + 2] if names else key


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name.removeprefix("torch."))
    if not isinstance(found, torch.dtype):
        raise ValueError(f"{name} is not a dtype")
    return found
