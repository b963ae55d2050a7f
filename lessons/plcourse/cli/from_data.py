"""Sets the numbers of classes, channels and features of a model to those of the data.

A packaged config has the numbers of its own data. If a user gives other data and does not set these numbers, they are
taken from the data. A number that the user has set and that does not fit the data is an error.
"""

import contextlib
import io
from collections.abc import Iterator, Sequence
from pkgutil import resolve_name
from typing import Any

import numpy as np
import yaml
from jsonargparse import Namespace

from plcourse.cli.request import Request
from plcourse.console import say
from plcourse.errors import UserError
from plcourse.runs.config_yaml import parse_config
from plcourse.training.baselines import plain_samples

_WHAT = {"num_classes": "classes", "channels": "channels", "in_features": "features"}


def take_from_data(config: Namespace, request: Request) -> None:
    """Sets the numbers in the parsed config of a verb, before anything is built.

    Raises:
        UserError: a number that the user has set does not fit the data.
    """
    by_run = request.run is not None and str(request.run.config_path) in [source.name for source in request.sources]
    if by_run or not _is_given("data", request):
        return
    places = list(_places(config))
    if not places or not (found := _facts(config.get("data"), {name for _, _, name in places})):
        return
    for key, node, name in places:
        there, here = found.get(name), node.get(name)
        if there is None or here is None or here == there:
            continue
        if _is_given(key, request):
            raise UserError(
                f"{key} is {here}, but the data of data.init_args have {there} {_WHAT[name]}: set it to {there}, or "
                "leave it out to take it from the data"
            )
        node[name] = there
        say(f"{key} is set to {there}, as in the data (it was {here} in the config)")


def _is_given(key: str, request: Request) -> bool:
    """Returns whether the user has set a key, a parent or a child of it, by a flag or in a config of their own.

    Inside a list of a config, it is enough that the last part of the key occurs.
    """
    short = _short(key)
    words = (word.removeprefix("--") for word in request.arguments if word.startswith("--"))
    flags = [_short(word.partition("=")[0].rstrip("+")) for word in words]
    if any(flag == short or flag.startswith(f"{short}.") for flag in flags):
        return True
    own = (source for source in request.sources if not source.packaged)
    return any(_holds(parse_config(source), key.split(".")) for source in own)


def _short(key: str) -> str:
    return key.replace(".init_args", "")


def _holds(tree: object, path: Sequence[str]) -> bool:
    for name in path:
        if isinstance(tree, list):
            return f"{path[-1]}:" in yaml.safe_dump(tree)
        if not isinstance(tree, dict) or name not in tree:
            return False
        tree = tree[name]
    return True


def _places(config: Namespace) -> Iterator[tuple[str, Any, str]]:
    """Yields (dotted key, the arguments that contain it, its name) for each number that must fit the data."""
    yield from _below("model", config.get("model"))
    for number, callback in enumerate((config.get("trainer") or {}).get("callbacks") or []):
        yield from _below(f"trainer.callbacks.{number}", callback)


def _below(key: str, node: object) -> Iterator[tuple[str, Any, str]]:
    # how a foreign class uses its networks is unknown
    path, arguments = (getattr(node, name, None) for name in ("class_path", "init_args"))
    if not isinstance(path, str) or arguments is None:
        return
    ours = path.startswith("plcourse.")
    for name, value in list(vars(arguments).items()):
        here = f"{key}.init_args.{name}"
        if name in _WHAT and isinstance(value, int) and (ours or name == "num_classes"):
            yield here, arguments, name
        elif ours:
            yield from _below(here, value)


def _facts(node: object, wanted: set[str]) -> dict[str, int]:
    """Returns the numbers of a data module of the suite; empty if they cannot be known before the run."""
    path, arguments = (getattr(node, name, None) for name in ("class_path", "init_args"))
    if not isinstance(path, str) or not path.startswith("plcourse.") or arguments is None:
        return {}
    plain = {key: None if key == "augment" else value for key, value in arguments.as_dict().items()}
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the run prints its messages again
            data: Any = resolve_name(path)(**plain)
            try:
                data.setup("fit")
            except UserError:
                data.prepare_data()
                data.setup("fit")
            return _numbers(data, wanted)
    except (UserError, OSError, TypeError, ValueError, AttributeError):
        return {}  # the run reports what is wrong


def _numbers(data: Any, wanted: set[str]) -> dict[str, int]:
    found = {}
    if names := getattr(data, "label_names", None):
        found["num_classes"] = len(names)
    if wanted == {"num_classes"}:
        return found  # without a loader, because one for texts would need a tokenizer
    samples = plain_samples(data.train_dataloader())
    batch = samples.fetch(np.zeros(1, np.int64), 0) if samples is not None else {}
    if "image" in batch:
        found["channels"], found["in_features"] = batch["image"].shape[1], batch["image"][0].numel()
    elif "features" in batch:
        found["in_features"] = batch["features"].shape[1]
    return found
