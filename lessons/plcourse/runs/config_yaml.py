"""Reads and writes configs as YAML that contains plain data only, and finds keys and class names in them. No torch."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import yaml

from plcourse import catalog
from plcourse.errors import UserError
from plcourse.runs.configs import ConfigSource

MAX_NODES = 100_000
MAX_DEPTH = 100
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null", "merge")}
_SLOTS = ("fit_loop", "validate_loop", "test_loop", "predict_loop", "callbacks", "logger", "strategy", "profiler")
_CLASS_KEYS = {"model", "data", *(f"trainer.{slot}" for slot in _SLOTS)}
_CLASS_KEYS_AT_ANY_DEPTH = {"optimizer", "lr_scheduler"}


def parse_config(source: ConfigSource) -> dict[str, Any]:
    """Reads the mapping that a config holds, with the rules by which jsonargparse reads YAML.

    Classes of the suite get their catalog names, also where the file has a full path.

    Raises:
        UserError: the text is not valid YAML or not a mapping, has duplicate keys or tags such as `!!python/object`,
            or has aliases that expand to more than 100,000 values or 100 levels.
    """
    root = _compose(source)
    if root is None:
        raise UserError(f"{source.label}: empty; a config is a mapping with keys such as model: and data:")
    if not isinstance(root, yaml.MappingNode):
        kind = "list" if isinstance(root, yaml.SequenceNode) else "single value"
        raise UserError(f"{_place(source, root)}: the top level is a {kind}, not a mapping of keys to values")
    _check(source, root)
    try:
        tree = _ConfigLoader("").construct_document(root)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise _syntax_error(source, error) from error
    odd = next((key for key in tree if not isinstance(key, str)), None)
    if odd is not None:
        raise UserError(f"{source.label}: the top-level key {odd!r} is not text; put quotes around it if it is a name")
    return short_class_names(tree)


def check_nested(text: str) -> None:
    """Raises a UserError for YAML in a flag, or in a file that a config names, that a config must not contain.

    Text that is not valid YAML passes; it may be a plain string.
    """
    source = ConfigSource("part", "a part of the config", text, packaged=False)
    try:
        root = yaml.compose(text, _ConfigLoader)
    except yaml.YAMLError:
        return
    except RecursionError:
        raise _too_deep(source) from None
    if root is not None:
        _check(source, root)


def read_tree(text: str) -> dict[str, Any]:
    """Returns the mapping of a dumped config, read as jsonargparse reads YAML."""
    return yaml.load(text, _ConfigLoader)


def write_tree(tree: dict[str, Any]) -> str:
    """Returns the text that `read_tree` reads as this mapping."""
    return yaml.dump(tree, Dumper=_ConfigDumper, sort_keys=False, allow_unicode=True)


def locate_key(files: Sequence[ConfigSource], dotted_key: str, parents: bool = False) -> str:
    """Finds a key such as `trainer.callbacks.0.init_args.monitor` in the given configs.

    Args:
        files: the configs in the order they are merged; the last one that has the key counts.
        dotted_key: keys and list positions, joined by dots.
        parents: whether to find the closest parent of a key that no file has.

    Returns:
        File and line as `mine.yaml:7`; an empty string if no file has the key.
    """
    parts = dotted_key.split(".")
    place, most = "", 1 if parents else len(parts)
    for source in files:
        try:
            matched, node = _descend(_compose(source), parts)
        except UserError:
            continue
        if node is not None and matched >= most:
            place, most = _place(source, node), matched
    return place


def lookup(tree: object, dotted_key: str) -> Any:
    """Returns the value of a key such as `model.init_args.lr` in nested mappings; None if it is missing."""
    for part in dotted_key.split("."):
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def short_class_names(tree: Any) -> Any:
    """Returns a copy of a config in which each `class_path` of a suite class is its catalog name, such as `MLP`."""
    return _renamed(tree, catalog.short_class_name)


def importable_class_names(tree: Any) -> Any:
    """Returns a copy of a config in which each class of the suite has a path such as `plcourse.catalog.MLP`.

    Unlike the catalog name, any program can import it; unlike the full path, it does not change when the class moves to
    another module.
    """

    def rename(name: str) -> str:
        short = catalog.short_class_name(name)
        return f"{catalog.__name__}.{short}" if short in catalog.CLASSES else name

    return _renamed(tree, rename)


def expand_class_names(tree: dict[str, Any], source: ConfigSource) -> dict[str, Any]:
    """Returns a copy of a config in which catalog names of classes are import paths.

    It expands `class_path: ImageData` at any depth, and plain names where a class is expected, as in
    `model: ImageClassifier`, `trainer.fit_loop: TracingFitLoop` and entries of `trainer.callbacks`. It keeps other
    names without a dot: jsonargparse finds subclasses of the expected type, such as `ModelCheckpoint`.

    Raises:
        UserError: a `class_path` is not a name; the message gives the line in `source`.
    """
    return {key: _expanded(value, key, source) for key, value in tree.items()}


def _expanded(value: Any, key: str, source: ConfigSource) -> Any:
    if isinstance(value, str):
        return _class_name(value, key)
    if isinstance(value, list):
        return [
            _class_name(item, key) if isinstance(item, str) else _expanded(item, f"{key}.{position}", source)
            for position, item in enumerate(value)
        ]
    if not isinstance(value, dict):
        return value
    copy = {inner: _expanded(item, f"{key}.{inner}", source) for inner, item in value.items()}
    if "class_path" in value:
        name = value["class_path"]
        if not isinstance(name, str):
            place = locate_key([source], f"{key}.class_path") or source.label
            raise UserError(f"{place}: {key}.class_path is {name!r}; it must be the name of a class")
        copy["class_path"] = catalog.class_path(name)
    return copy


def _class_name(name: str, key: str) -> str:
    """Returns the import path of a catalog name if the key expects a class; any other text is returned unchanged."""
    expects_class = key.removesuffix("+") in _CLASS_KEYS or key.rpartition(".")[2] in _CLASS_KEYS_AT_ANY_DEPTH
    return catalog.class_path(name) if expects_class or name.startswith(("plcourse.", "lightning.")) else name


def _renamed(tree: Any, rename: Callable[[str], str]) -> Any:
    if isinstance(tree, list):
        return [_renamed(value, rename) for value in tree]
    if not isinstance(tree, dict):
        return tree
    copy = {key: _renamed(value, rename) for key, value in tree.items()}
    if isinstance(name := tree.get("class_path"), str):
        copy["class_path"] = rename(name)
    return copy


def _compose(source: ConfigSource) -> yaml.Node | None:
    """Returns the tree of YAML nodes, which know their lines."""
    try:
        return yaml.compose(source.text, _ConfigLoader)
    except yaml.YAMLError as error:
        raise _syntax_error(source, error) from error
    except RecursionError:
        raise _too_deep(source) from None


def _descend(node: yaml.Node | None, parts: list[str]) -> tuple[int, yaml.Node | None]:
    """Returns how many parts of a key a tree has, and the node of the last of them; keys may contain dots."""
    best: tuple[int, yaml.Node | None] = (0, None)
    if not parts:
        return best
    if isinstance(node, yaml.SequenceNode) and parts[0].isdecimal() and int(parts[0]) < len(node.value):
        item = node.value[int(parts[0])]
        matched, deeper = _descend(item, parts[1:])
        return 1 + matched, deeper or item
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        words = str(key.value).split(".") if isinstance(key, yaml.ScalarNode) else []
        if words and parts[: len(words)] == words:
            matched, deeper = _descend(value, parts[len(words) :])
            best = max(best, (len(words) + matched, deeper or key), key=lambda found: found[0])
    return best


class _ConfigLoader(yaml.SafeLoader):
    """PyYAML's safe loader with jsonargparse's numbers: `1e-3` is a float, a date stays text."""


_FLOAT = re.compile(
    r"""^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
    |[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+
    |\.[0-9_]+(?:[eE][-+][0-9]+)?
    |[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*
    |[-+]?\.(?:inf|Inf|INF)
    |\.(?:nan|NaN|NAN))$""",
    re.X,
)
_REPLACED = ("tag:yaml.org,2002:float", "tag:yaml.org,2002:timestamp")
_ConfigLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag not in _REPLACED]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_ConfigLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))


class _ConfigDumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # pyright: ignore[reportGeneralTypeIssues]
    """Puts quotes around text that `_ConfigLoader` would read as something else, such as `1e-3`."""


_ConfigDumper.yaml_implicit_resolvers = {
    first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, []) + pairs
    for first, pairs in _ConfigLoader.yaml_implicit_resolvers.items()
}


def _check(source: ConfigSource, root: yaml.Node) -> None:
    """Raises a UserError for what a config must not contain.

    It visits each node once and counts aliases as if they were written out, without expanding them.
    """
    sizes: dict[int, tuple[int, int]] = {}
    unfinished: set[int] = set()

    def measure(node: yaml.Node) -> tuple[int, int]:
        """Returns the numbers of nodes and of levels below a node, including the node."""
        if id(node) in sizes:
            return sizes[id(node)]
        if id(node) in unfinished:
            raise UserError(f"{_place(source, node)}: an anchor contains itself")
        if node.tag not in _TAGS:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise UserError(f"{_place(source, node)}: the YAML tag {tag} is refused; a config holds plain data")
        unfinished.add(id(node))
        below = [measure(child) for child in _children(source, node)]
        unfinished.discard(id(node))
        sizes[id(node)] = 1 + sum(count for count, _ in below), 1 + max((depth for _, depth in below), default=0)
        return sizes[id(node)]

    try:
        size, depth = measure(root)
    except RecursionError:
        raise _too_deep(source) from None
    if depth > MAX_DEPTH:
        raise _too_deep(source)
    if size > MAX_NODES:
        raise UserError(f"{source.label}: its aliases expand to {size:,} values, more than {MAX_NODES:,}")


def _children(source: ConfigSource, node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    lines: dict[tuple[str, str], int] = {}
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{_place(source, key)}: a key is a list or a mapping; it must be a name")
        if first := lines.get((key.tag, key.value)):
            raise UserError(f"{_place(source, key)}: duplicate key {key.value!r} (first defined in line {first})")
        lines[key.tag, key.value] = key.start_mark.line + 1
        yield key
        yield value


def _place(source: ConfigSource, node: yaml.Node) -> str:
    return f"{source.label}:{node.start_mark.line + 1}"


def _too_deep(source: ConfigSource) -> UserError:
    return UserError(f"{source.label}: nested more than {MAX_DEPTH} levels deep")


def _syntax_error(source: ConfigSource, error: Exception) -> UserError:
    mark = getattr(error, "problem_mark", None)
    position = getattr(error, "position", None)
    if mark is not None:
        where = f"{source.label}:{mark.line + 1}"
    elif position is not None:
        where = f"{source.label}:{source.text.count(chr(10), 0, position) + 1}"
    else:
        where = source.label
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).partition("\n")[0]
    context = getattr(error, "context", None) or ""
    if context.startswith("expected"):  # others say "while parsing ...", which adds nothing to the line
        problem = f"{context}, {problem}"
    return UserError(f"{where}: not valid YAML: {problem}")
