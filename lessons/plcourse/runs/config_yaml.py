"""Reads and writes the YAML of configs; nothing but plain data is ever constructed. No torch."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from plcourse.errors import UserError
from plcourse.runs.class_names import short_class_names
from plcourse.runs.configs import ConfigSource

MAX_NODES = 100_000
MAX_DEPTH = 100
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null", "merge")}


def parse_config(source: ConfigSource) -> dict[str, Any]:
    """Reads the mapping that a config holds, with the rules by which jsonargparse reads YAML.

    Classes of the suite get their catalog names, also where the file has a full path.

    Raises:
        UserError: the text is not valid YAML or not a mapping, has duplicate keys or tags such as `!!python/object`,
            or has aliases that expand to more than 100,000 values or 100 levels.
    """
    loader, root = compose(source)
    if root is None:
        raise UserError(f"{source.label}: empty; a config is a mapping with keys such as model: and data:")
    if not isinstance(root, yaml.MappingNode):
        kind = "list" if isinstance(root, yaml.SequenceNode) else "single value"
        raise UserError(f"{_place(source, root)}: the top level is a {kind}, not a mapping of keys to values")
    _Check(source).run(root)
    try:
        tree = loader.construct_document(root)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise _syntax_error(source, error) from error
    odd = next((key for key in tree if not isinstance(key, str)), None)
    if odd is not None:
        raise UserError(f"{source.label}: the top-level key {odd!r} is not text; put quotes around it if it is a name")
    return short_class_names(tree)


def read_tree(text: str) -> dict[str, Any]:
    """Returns the mapping of a dumped config, read as jsonargparse reads YAML."""
    return yaml.load(text, _ConfigLoader)


def write_tree(tree: dict[str, Any]) -> str:
    """Returns the text that `read_tree` reads as this mapping."""
    return yaml.dump(tree, Dumper=_ConfigDumper, sort_keys=False, allow_unicode=True)


def compose(source: ConfigSource) -> "tuple[_ConfigLoader, yaml.Node | None]":
    """Returns the tree of YAML nodes, which know their lines, and the loader that can construct its values.

    Raises:
        UserError: the text is not valid YAML or nested too deeply.
    """
    try:
        loader = _ConfigLoader(source.text)
        return loader, loader.get_single_node()
    except yaml.YAMLError as error:
        raise _syntax_error(source, error) from error
    except RecursionError:
        raise _too_deep(source) from None


def line_of(node: yaml.Node) -> int:
    """The line of a node, counted from 1."""
    return node.start_mark.line + 1


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


class _Check:
    """Visits each node once and counts aliases as if they were written out, without expanding them."""

    def __init__(self, source: ConfigSource) -> None:
        self.source = source
        self._sizes: dict[int, tuple[int, int]] = {}
        self._open: set[int] = set()

    def run(self, root: yaml.Node) -> None:
        """Raises a UserError for the first thing that a config must not contain."""
        try:
            size, depth = self._measure(root)
        except RecursionError:
            raise _too_deep(self.source) from None
        if depth > MAX_DEPTH:
            raise _too_deep(self.source)
        if size > MAX_NODES:
            raise UserError(f"{self.source.label}: its aliases expand to {size:,} values, more than {MAX_NODES:,}")

    def _measure(self, node: yaml.Node) -> tuple[int, int]:
        """The number of nodes and levels below a node, with every alias counted as if it were written out."""
        if id(node) in self._sizes:
            return self._sizes[id(node)]
        if id(node) in self._open:
            raise UserError(f"{_place(self.source, node)}: an anchor contains itself")
        if node.tag not in _TAGS:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            raise UserError(f"{_place(self.source, node)}: the YAML tag {tag} is refused; a config holds plain data")
        self._open.add(id(node))
        below = [self._measure(child) for child in self._children(node)]
        self._open.discard(id(node))
        size = 1 + sum(count for count, _ in below), 1 + max((depth for _, depth in below), default=0)
        self._sizes[id(node)] = size
        return size

    def _children(self, node: yaml.Node) -> Iterator[yaml.Node]:
        if isinstance(node, yaml.SequenceNode):
            yield from node.value
        if not isinstance(node, yaml.MappingNode):
            return
        lines: dict[tuple[str, str], int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise UserError(f"{_place(self.source, key)}: a key is a list or a mapping; it must be a name")
            if first := lines.get((key.tag, key.value)):
                raise UserError(
                    f"{_place(self.source, key)}: duplicate key {key.value!r} (first defined in line {first})"
                )
            lines[key.tag, key.value] = line_of(key)
            yield key
            yield value


def _place(source: ConfigSource, node: yaml.Node) -> str:
    return f"{source.label}:{line_of(node)}"


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
