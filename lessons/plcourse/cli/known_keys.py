"""Finds unknown keys and flags before torch is imported, by reading from source files what a class takes.

This covers the Trainer and the classes of the suite. The parser, which needs torch, checks those of other libraries.
"""

import ast
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from plcourse import catalog
from plcourse.errors import UserError, nearest
from plcourse.runs.config_yaml import locate_key
from plcourse.runs.configs import ConfigSource

TOP_LEVEL = ("seed_everything", "trainer", "model", "data", "ckpt_path", "optimizer", "lr_scheduler")
# Arguments of the Trainer's methods that the suite sets itself, with the values that a stock LightningCLI writes.
SET_HERE = {"weights_only": None, "verbose": True, "return_predictions": None}
_TRAINERS = ("plcourse.training.trainer.Trainer", "pytorch_lightning.trainer.trainer.Trainer")


def check_config(tree: dict[str, object], source: ConfigSource) -> None:
    """Raises a UserError with file and line for the first unknown key of a config whose class names are expanded."""
    checked = [("", tree, frozenset((*TOP_LEVEL, *SET_HERE))), ("trainer.", tree.get("trainer"), trainer_arguments())]
    for prefix, settings, known in [*checked, *_of_classes(tree)]:
        for key in settings if isinstance(settings, Mapping) else ():
            name = str(key).partition(".")[0].removesuffix("+")
            if known is not None and name not in known:
                place = locate_key([source], f"{prefix}{key}") or source.label
                raise UserError(f"{place}: {prefix}{name}: {unknown_setting(name, known)}")


def check_flags(words: Sequence[str], classes: Mapping[str, str], own_flags: Iterable[str]) -> None:
    """Raises a UserError for the first unknown flag.

    Args:
        words: the flags of LightningCLI with their values.
        classes: the classes that the configs choose for `model` and `data`.
        own_flags: all other flags, which can be the one that was meant.
    """
    flags = [word.partition("=")[0] for word in words if word.startswith("--")]
    kept = {group: path for group, path in classes.items() if not {f"--{group}", f"--{group}.class_path"} & {*flags}}
    known = {"trainer": trainer_arguments(), **{group: arguments_of(path) for group, path in kept.items()}}
    for flag in flags:
        group, _, rest = flag.removeprefix("--").partition(".")
        name = rest.removeprefix("init_args.").partition(".")[0].removesuffix("+")
        arguments = known.get(group) or frozenset()
        wrong = bool(arguments) and name not in {"", "class_path", "init_args", "dict_kwargs", "help", *arguments}
        is_group = group.removesuffix("+") in TOP_LEVEL or group.startswith(("print_", "help"))
        if not is_group or (wrong and group == "trainer"):
            settings = [*TOP_LEVEL, *(f"trainer.{each}" for each in known["trainer"] or ())]
            raise unknown_flag(flag, [*own_flags, *(f"--{each}" for each in settings)])
        if wrong:
            raise UserError(f"{group}.init_args.{name}: {unknown_setting(name, arguments)}")


def unknown_setting(name: str, known: Collection[str]) -> str:
    """Returns the message for an unknown key, with the nearest known one or all of them."""
    hint = nearest(name, known) or f"; known are {', '.join(sorted(known))}"
    return f"unknown setting '{name}'{hint}"


def unknown_flag(flag: str, known: Iterable[str]) -> UserError:
    """Returns the error for an unknown flag, with the nearest known one."""
    return UserError(f"unknown flag {flag}{nearest(flag, known)}; `--help_all` lists every flag")


def trainer_arguments() -> frozenset[str] | None:
    """Returns the arguments of the suite's Trainer, which include Lightning's; None if a source file is missing."""
    suite, lightning = map(_constructor_arguments, _TRAINERS)
    return None if suite is None or lightning is None else suite | lightning


def arguments_of(class_path: str) -> frozenset[str] | None:
    """Returns the arguments of a class's constructor; None if it is not a class of the suite."""
    return _constructor_arguments(class_path) if class_path in catalog.CLASSES.values() else None


def _of_classes(tree: object, path: str = "") -> Iterator[tuple[str, object, frozenset[str] | None]]:
    """Yields the dotted prefix, the `init_args` and the known arguments of each class of the suite in a config."""
    if isinstance(tree, Mapping):
        yield f"{path}init_args.", tree.get("init_args"), arguments_of(str(tree.get("class_path")))
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from _of_classes(value, f"{path}{key}.")


@cache
def _constructor_arguments(class_path: str) -> frozenset[str] | None:
    """Reads the arguments of a class's constructor from its source file; None if it has no such constructor."""
    module, _, name = class_path.rpartition(".")
    body = _source(module)
    found = next((node for node in body if isinstance(node, ast.ClassDef) and node.name == name), None)
    if found is None:
        return None
    for node in found.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return frozenset(each.arg for each in [*node.args.args[1:], *node.args.kwonlyargs])
    imported = {each.name: node.module for node in body if isinstance(node, ast.ImportFrom) for each in node.names}
    bases = [base.id for base in found.bases if isinstance(base, ast.Name)]
    paths = (catalog.CLASSES.get(base) or f"{imported.get(base) or module}.{base}" for base in bases)
    return next((known for path in paths if (known := _constructor_arguments(path)) is not None), None)


@cache
def _source(module: str) -> list[ast.stmt]:
    """Returns the statements of a module that has not been imported; an empty list if its source is not there."""
    top, _, rest = module.partition(".")
    spec = find_spec(top)
    folders = (spec and spec.submodule_search_locations) or []
    files = (Path(folder, *rest.split(".")).with_suffix(".py") for folder in folders)
    return next((ast.parse(file.read_text(encoding="utf-8")).body for file in files if file.is_file()), [])
