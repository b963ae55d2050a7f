"""Config files: found by name or path, read once, checked before anything acts on them.

`find_config` gives the text, `parse_config` the checked mapping, `parse_header` what the comment at the top
says, `expand_class_names` full class paths, and `locate_key` the line that an error message should point at.
Whatever is wrong with a file is a one-line `UserError` that names the file and, where there is one, the line.
"""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from plcourse import catalog
from plcourse.errors import UserError, nearest

MAX_BYTES = 1 << 20
MAX_NODES = 100_000
MAX_DEPTH = 100
NEEDS = ("nothing", "gpu", "two nodes", "a file", "a run")

_SLOTS = (
    "fit_loop",
    "validate_loop",
    "test_loop",
    "predict_loop",
    "callbacks",
    "logger",
    "strategy",
    "profiler",
)
_CLASS_KEYS = {"model", "data", "optimizer", "lr_scheduler", *(f"trainer.{slot}" for slot in _SLOTS)}
_ANYWHERE_CLASS_KEYS = {"optimizer", "lr_scheduler"}


@dataclass(frozen=True)
class ConfigSource:
    """A config file's text and where it came from.

    Args:
        name: `ddp/two_processes` for a packaged config, the path as it was given for any other.
        label: the path that messages show.
        text: the whole file.
        packaged: whether it is one of the suite's own files.
    """

    name: str
    label: str
    text: str
    packaged: bool

    @property
    def run_name(self) -> str:
        """Where its runs go below the runs' root: the packaged name, else `own/<file name>`."""
        return self.name if self.packaged else own_name(self.name)


@dataclass(frozen=True)
class ConfigHeader:
    """What the comment block at the top of a config says; see `parse_header` for the format.

    Args:
        command: the command that runs it, one line.
        shows: what the run shows, one or two sentences.
        verbs: the verbs that it serves.
        needs: what must be there beforehand; empty when it runs anywhere.
    """

    command: str
    shows: str
    verbs: tuple[str, ...]
    needs: tuple[str, ...]


class Place(NamedTuple):
    """Where a key stands: the file's label and the line, counted from 1."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def own_name(name: str) -> str:
    """A safe `own/<file name>` for the runs of a user's config, whatever the path holds.

    Separators, control characters and leading dots are gone, and the length fits every file system.
    """
    if name.startswith(("/dev/", "/proc/")):  # what the shell names a pipe says nothing
        return "own/pipe"
    stem = re.sub(r"\.ya?ml$", "", re.split(r"[/\\]", name.rstrip("/\\"))[-1])
    safe = re.sub(r"[^\w.-]+", "_", stem).strip(".-_")
    return f"own/{safe.encode()[:100].decode(errors='ignore') or 'config'}"


def find_config(name: str) -> ConfigSource:
    """Reads a config given by path or by packaged name, with or without `.yaml`.

    An existing file wins over a packaged config of the same name. Pipes such as `/dev/fd/63` are read once.

    Raises:
        UserError: nothing of that name, a folder, unreadable, larger than 1 MiB or not UTF-8.
    """
    packaged = name.removesuffix(".yaml")
    is_packaged = packaged in catalog.config_names()
    mode = _mode(name)
    if mode is not None and not stat.S_ISDIR(mode):
        own = _packaged_name(Path(name))
        return ConfigSource(own or name, name, _read(name), packaged=own is not None)
    if is_packaged:
        path = catalog.config_path(packaged)
        return ConfigSource(packaged, str(path), _read(path), packaged=True)
    if packaged in catalog.sweep_names():
        raise UserError(f"'{packaged}' is a sweep, not the config of a run: plcourse sweep -c {packaged}")
    if name in {lesson.key for lesson in catalog.LESSONS}:
        known = ", ".join(catalog.config_names(name)) or "none yet"
        raise UserError(f"config '{name}' is a lesson; name one of its configs: {known}")
    if mode is not None:
        raise UserError(_folder_message(name))
    hint = nearest(packaged, catalog.config_names())
    raise UserError(f"no file and no packaged config is named {name!r} (see `plcourse ls`){hint}")


def parse_config(source: ConfigSource) -> dict[str, Any]:
    """The mapping that a config holds, read as jsonargparse reads YAML and with nothing constructed but data.

    Classes of the suite have their catalog names in it, also where the file has a full path.

    Raises:
        UserError: a syntax error, a top level that is not a mapping, duplicate keys, tags such as
            `!!python/object`, aliases that expand beyond 100,000 nodes or nest deeper than 100 levels.
    """
    loader, root = _compose(source)
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
        raise UserError(f"{source.label}: the top-level key {odd!r} is not a name; quote it if it is meant as one")
    return short_class_names(tree)


def short_class_names(tree: Any) -> Any:
    """A copy of a config in which every ``class_path`` of a class of the suite is its catalog name."""
    if isinstance(tree, list):
        return [short_class_names(value) for value in tree]
    if not isinstance(tree, dict):
        return tree
    copy = {key: short_class_names(value) for key, value in tree.items()}
    if isinstance(name := tree.get("class_path"), str):
        copy["class_path"] = catalog.short_class_name(name)
    return copy


def read_tree(text: str) -> dict[str, Any]:
    """The mapping that a dumped config holds, read as jsonargparse reads YAML."""
    return yaml.load(text, _ConfigLoader)


def write_tree(tree: dict[str, Any]) -> str:
    """The text that `read_tree` reads as this mapping."""
    return yaml.dump(tree, Dumper=_ConfigDumper, sort_keys=False, allow_unicode=True)


def parse_header(source: ConfigSource) -> ConfigHeader:
    """Reads the comment block at the top of a config.

    The block is the run of lines that begin with `#`. Its first line is the command, beginning with
    `plcourse` or `torchrun`; free text says what the run shows; two lines, in this order, end it::

        # plcourse fit -c ddp/two_processes --then test
        # Two gloo processes train a small ResNet on mnist5k; the same batches, losses and weights as
        # one process.
        # verbs: fit, validate, test, predict
        # needs: nothing

    `verbs` is a comma list of the verbs that the config serves. `needs` is `nothing`, or a comma list of
    `gpu`, `two nodes`, `a file` and `a run`. More comment lines may follow after an empty line.

    Raises:
        UserError: a part that is missing or not one of the words above.
    """
    lines = []
    for line in source.text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("#").strip())
    if not lines or not lines[0].startswith(("plcourse ", "torchrun ")):
        raise UserError(f"{source.label}:1: the first line is not a comment with the command that runs this config")
    if len(lines) < 4 or not lines[-2].startswith("verbs:") or not lines[-1].startswith("needs:"):
        raise UserError(
            f"{source.label}: the comment at the top must be the command, what it shows, `verbs:`, `needs:`"
        )
    verbs = _words(source, lines[-2], catalog.verbs_of("run"), len(lines) - 1)
    needs = _words(source, lines[-1], NEEDS, len(lines))
    if "nothing" in needs and len(needs) > 1:
        raise UserError(f"{source.label}:{len(lines)}: `needs:` is either `nothing` or what is needed, not both")
    return ConfigHeader(lines[0], " ".join(lines[1:-2]), verbs, tuple(word for word in needs if word != "nothing"))


def expand_class_names(tree: dict[str, Any], source: ConfigSource) -> dict[str, Any]:
    """A copy of a config in which short class names of the catalog are full paths.

    `class_path: ImageData` is expanded at any depth, and so is a plain name where a class stands:
    `model: ImageClassifier`, `trainer.fit_loop: TracingFitLoop`, entries of `trainer.callbacks`. Other names
    without a dot stay as they are: jsonargparse finds subclasses of the expected type, such as
    `ModelCheckpoint`.

    Args:
        tree: what `parse_config` gave for `source`.
        source: names the file and line in errors.

    Raises:
        UserError: a `class_path` that is not a name.
    """
    return {key: _expanded(value, key, source) for key, value in tree.items()}


def known_class_names() -> list[str]:
    """The short class names of the suite, for hints about misspelt ones."""
    return sorted(catalog.CLASSES)


def locate_key(files: Sequence[ConfigSource], dotted_key: str, parents: bool = False) -> Place | None:
    """Where a key such as `trainer.callbacks.0.init_args.monitor` stands in the given configs.

    Args:
        files: the configs in the order they are merged; the last one that has the key is meant.
        dotted_key: keys and list positions, joined by dots.
        parents: for a key that no file has, give the place of its closest parent.

    Returns:
        The file and line, or None when no file has the key or cannot be read as YAML.
    """
    found: tuple[int, Place] | None = None
    for source in files:
        try:
            root = _compose(source)[1]
        except UserError:
            continue
        matched, node = _descend(root, dotted_key.split(".")) if root else (0, None)
        if node is not None and (found is None or matched >= found[0]):
            found = (matched, _place(source, node))
    if found is None or (found[0] < len(dotted_key.split(".")) and not parents):
        return None
    return found[1]


def resolved_path(name: str) -> Path:
    """The complete form of a packaged config, with every default, which the wheel carries.

    Args:
        name: a packaged name, with or without `.yaml`.

    Raises:
        UserError: no such packaged config, or this installation lacks the file.
    """
    name = name.removesuffix(".yaml")
    if name not in catalog.config_names():
        hint = nearest(name, catalog.config_names())
        raise UserError(f"no packaged config is named {name!r} (see `plcourse ls`){hint}")
    path = catalog.resolved_path(name)
    if not path.is_file():
        raise UserError(f"this installation has no resolved {name}; see `plcourse fit -c {name} --print_config`")
    return path


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
    """Puts quotes around every text that `_ConfigLoader` would read as something else, such as `1e-3`."""


_ConfigDumper.yaml_implicit_resolvers = {
    first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, []) + pairs
    for first, pairs in _ConfigLoader.yaml_implicit_resolvers.items()
}
_TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null", "merge")}


class _Check:
    """Walks the composed nodes once, aliases as what they stand for, without expanding them."""

    def __init__(self, source: ConfigSource) -> None:
        self.source = source
        self._sizes: dict[int, tuple[int, int]] = {}
        self._open: set[int] = set()

    def run(self, root: yaml.Node) -> None:
        """Raises UserError for the first thing that a config may not hold."""
        try:
            size, depth = self._measure(root)
        except RecursionError:
            raise _too_deep(self.source) from None
        if depth > MAX_DEPTH:
            raise _too_deep(self.source)
        if size > MAX_NODES:
            raise UserError(f"{self.source.label}: its aliases expand to {size:,} values, more than {MAX_NODES:,}")

    def _measure(self, node: yaml.Node) -> tuple[int, int]:
        """The number of nodes and levels below a node, counted as if every alias were written out."""
        if id(node) in self._sizes:
            return self._sizes[id(node)]
        if id(node) in self._open:
            raise UserError(f"{_place(self.source, node)}: an anchor that contains itself")
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
                raise UserError(f"{_place(self.source, key)}: a key is itself a list or a mapping, not a name")
            first = lines.get((key.tag, key.value))
            if first is not None:
                raise UserError(
                    f"{_place(self.source, key)}: the key {key.value!r} stands twice, first in line {first}"
                )
            lines[key.tag, key.value] = _line(key)
            yield key
            yield value


def _mode(name: str) -> int | None:
    """The kind of the thing at a path, None when there is none."""
    try:
        return os.stat(name).st_mode  # noqa: PTH116  (a Path would turn "./x" into "x" and "" into ".")
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        raise UserError(f"cannot read config {name!r}: {error.strerror}") from error


def _read(path: str | Path) -> str:
    try:
        with open(path, "rb") as file:  # noqa: PTH123  (as given: "/dev/fd/63" must not be resolved)
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"cannot read config '{path}': {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise UserError(f"config '{path}' is larger than 1 MiB; is it a config?")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8 text (byte 0x{data[error.start]:02x})") from error


def _packaged_name(path: Path) -> str | None:
    """The packaged name of a file, when the path leads to one of the suite's own configs."""
    path = path.resolve()
    name = f"{path.parent.name}/{path.stem}"
    is_own = name in catalog.config_names() and path == catalog.config_path(name).resolve()
    return name if is_own else None


def _folder_message(name: str) -> str:
    if (Path(name) / "run.json").is_file():
        file = f"{name.rstrip('/')}/config.yaml"
        return f"config {name!r} is a run's folder; use `--run {name}`, or its file `-c {file}`"
    return f"config {name!r} is a folder; name a YAML file, or a packaged config (see `plcourse ls`)"


def _compose(source: ConfigSource) -> tuple[_ConfigLoader, yaml.Node | None]:
    """The tree of nodes, with their lines, that a text holds; nothing is constructed."""
    try:
        loader = _ConfigLoader(source.text)
        return loader, loader.get_single_node()
    except yaml.YAMLError as error:
        raise _syntax_error(source, error) from error
    except RecursionError:
        raise _too_deep(source) from None


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
    if context.startswith("expected"):  # the others say "while parsing ...", which the line says better
        problem = f"{context}, {problem}"
    return UserError(f"{where}: not valid YAML: {problem}")


def _words(source: ConfigSource, line: str, known: Sequence[str], number: int) -> tuple[str, ...]:
    """The comma list after the colon of a header line, each word checked."""
    key, _, rest = line.partition(":")
    words = tuple(word.strip() for word in rest.split(","))
    for word in words:
        if word not in known:
            where, hint = f"{source.label}:{number}", nearest(word, known)
            raise UserError(f"{where}: `{key}:` has {word!r}, not one of {', '.join(known)}{hint}")
    return words


def _expanded(value: Any, key: str, source: ConfigSource) -> Any:
    """The copy of one value with class names in full; ``key`` is where it stands."""
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
    """The full path of a short name, where the key is one that takes a class; elsewhere a word is a word."""
    takes_class = key.removesuffix("+") in _CLASS_KEYS or key.rpartition(".")[2] in _ANYWHERE_CLASS_KEYS
    return catalog.class_path(name) if takes_class or name.startswith("plcourse.") else name


def _descend(node: yaml.Node, parts: list[str]) -> tuple[int, yaml.Node | None]:
    """How many parts of a key a tree has, and the node of the last of them; keys may hold dots themselves."""
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


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _place(source: ConfigSource, node: yaml.Node) -> Place:
    return Place(source.label, _line(node))
