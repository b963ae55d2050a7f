"""Keys of a config: the lines where they are, and the class names that they hold. No torch."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from plcourse import catalog
from plcourse.errors import UserError
from plcourse.runs.config_yaml import compose, line_of
from plcourse.runs.configs import ConfigSource

_SLOTS = ("fit_loop", "validate_loop", "test_loop", "predict_loop", "callbacks", "logger", "strategy", "profiler")
_CLASS_KEYS = {"model", "data", *(f"trainer.{slot}" for slot in _SLOTS)}
_CLASS_KEYS_AT_ANY_DEPTH = {"optimizer", "lr_scheduler"}


class Place(NamedTuple):
    """The position of a key: the label of the file and the line, counted from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def locate_key(files: Sequence[ConfigSource], dotted_key: str, parents: bool = False) -> Place | None:
    """Finds a key such as `trainer.callbacks.0.init_args.monitor` in the given configs.

    Args:
        files: the configs in the order they are merged; the last one that has the key counts.
        dotted_key: keys and list positions, joined by dots.
        parents: whether a key that no file has is answered with the place of its closest parent.

    Returns:
        The place, or None when no file has the key. Files that are not YAML are ignored.
    """
    parts = dotted_key.split(".")
    found: tuple[int, Place] | None = None
    for source in files:
        try:
            root = compose(source)[1]
        except UserError:
            continue
        matched, node = _descend(root, parts) if root else (0, None)
        if node is not None and (found is None or matched >= found[0]):
            found = (matched, Place(source.label, line_of(node)))
    return found[1] if found is not None and (parents or found[0] == len(parts)) else None


def lookup(tree: object, dotted_key: str) -> Any:
    """Returns the value of a key such as `model.init_args.lr` in nested mappings; None if it is missing."""
    for part in dotted_key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def expand_class_names(tree: dict[str, Any], source: ConfigSource) -> dict[str, Any]:
    """Returns a copy of a config in which catalog names of classes are import paths.

    It expands `class_path: ImageData` at any depth, and plain names where a class is expected, as in
    `model: ImageClassifier`, `trainer.fit_loop: TracingFitLoop` and entries of `trainer.callbacks`. It keeps other
    names without a dot: jsonargparse finds subclasses of the expected type, such as `ModelCheckpoint`.

    Args:
        tree: the result of `parse_config` for `source`.
        source: gives file and line in errors.

    Raises:
        UserError: a `class_path` is not a name.
    """
    return {key: _expanded(value, key, source) for key, value in tree.items()}


def _expanded(value: Any, key: str, source: ConfigSource) -> Any:
    if isinstance(value, dict):
        name = value.get("class_path")
        if "class_path" in value and not isinstance(name, str):
            place = locate_key([source], f"{key}.class_path") or source.label
            raise UserError(f"{place}: {key}.class_path is {name!r}; it must be the name of a class")
        copy = {inner: _expanded(item, f"{key}.{inner}", source) for inner, item in value.items()}
        if isinstance(name, str):
            copy["class_path"] = catalog.class_path(name)
        return copy
    if isinstance(value, list):
        return [
            _class_name(item, key) if isinstance(item, str) else _expanded(item, f"{key}.{position}", source)
            for position, item in enumerate(value)
        ]
    return _class_name(value, key) if isinstance(value, str) else value


def _class_name(name: str, key: str) -> str:
    """The import path of a catalog name, where the key expects a class; any other text is returned unchanged."""
    expects_class = key.removesuffix("+") in _CLASS_KEYS or key.rpartition(".")[2] in _CLASS_KEYS_AT_ANY_DEPTH
    return catalog.class_path(name) if expects_class or name.startswith("plcourse.") else name


def _descend(node: yaml.Node, parts: list[str]) -> tuple[int, yaml.Node | None]:
    """How many parts of a key a tree has, and the node of the last of them; keys may contain dots themselves."""
    best: tuple[int, yaml.Node | None] = (0, None)
    if isinstance(node, yaml.SequenceNode) and parts[0].isdecimal() and int(parts[0]) < len(node.value):
        item = node.value[int(parts[0])]
        matched, deeper = _descend(item, parts[1:]) if parts[1:] else (0, None)
        return 1 + matched, deeper or item
    if not isinstance(node, yaml.MappingNode):
        return best
    for key, value in node.value:
        words = str(key.value).split(".") if isinstance(key, yaml.ScalarNode) else []
        if not words or parts[: len(words)] != words:
            continue
        matched, deeper = _descend(value, parts[len(words) :]) if parts[len(words) :] else (0, None)
        if len(words) + matched > best[0]:
            best = (len(words) + matched, deeper or key)
    return best
