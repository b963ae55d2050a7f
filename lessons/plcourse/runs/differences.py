"""Compares two configs: of a run and its resumption, or of a run and its evaluation. No torch."""

from collections.abc import Mapping
from typing import Any

from plcourse import catalog

Difference = tuple[Any, Any]


def differences(recorded: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Difference]:
    """Returns the settings in which two configs differ.

    Short and full names of a class are equal, and so are a plain name and a mapping with that `class_path`. A setting
    that only one config has is no difference, because the other leaves it at its default. In other mappings, such as a
    dictionary given as an argument, such keys count.

    Args:
        recorded: the earlier config, such as a parsed `config.yaml`.
        asked: the later one.

    Returns:
        The earlier and the later value by dotted key, such as `model.init_args.optimizer.init_args.lr` or
        `trainer.callbacks.0`, in the order of the earlier config. If a class or the length of a list differs, both
        values are the whole class with its arguments or the whole list.
    """
    found: dict[str, Difference] = {}
    _compare(dict(recorded), dict(asked), "", True, found)
    return found


def same_class(one: str, other: str) -> bool:
    """Returns whether two names mean the same class.

    A name without dots matches any class of that name; the module of a suite class does not matter.
    """
    one, other = catalog.class_path(one), catalog.class_path(other)
    short = "." not in one or "." not in other
    return one == other or (short and one.rpartition(".")[2] == other.rpartition(".")[2])


def _compare(old: object, new: object, key: str, arguments: bool, found: dict[str, Difference]) -> None:
    """Adds the differences of two values; `arguments` says whether mappings hold settings with defaults."""
    old, new = _as_class(old, new), _as_class(new, old)
    if isinstance(old, dict) and isinstance(new, dict):
        classes = "class_path" in old and "class_path" in new
        if classes and not same_class(str(old["class_path"]), str(new["class_path"])):
            found[key] = (old, new)
        elif classes:
            _compare(old.get("init_args") or {}, new.get("init_args") or {}, f"{key}.init_args", True, found)
            _compare(old.get("dict_kwargs") or {}, new.get("dict_kwargs") or {}, f"{key}.dict_kwargs", True, found)
        else:
            for name in [*old, *(name for name in new if name not in old)]:
                inner = f"{key}.{name}" if key else str(name)
                if name in old and name in new:
                    section = not key and name == "trainer"
                    _compare(old[name], new[name], inner, section, found)
                elif not arguments:
                    found[inner] = (old.get(name), new.get(name))
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        for position, (one, other) in enumerate(zip(old, new, strict=True)):
            _compare(one, other, f"{key}.{position}", False, found)
    elif not _equal(old, new):
        found[key] = (old, new)


def _as_class(value: object, beside: object) -> object:
    """Turns a class given by its name alone into a mapping, if the other value is one."""
    if isinstance(value, str) and isinstance(beside, dict) and "class_path" in beside:
        return {"class_path": value}
    return value


def _equal(old: object, new: object) -> bool:
    if isinstance(old, bool) or isinstance(new, bool):  # True == 1 in Python, not in a config
        return old is new
    if isinstance(old, str) and isinstance(new, str):
        return old == new or (catalog.short_class_name(old) in catalog.CLASSES and same_class(old, new))
    return old == new or (old != old and new != new)  # two NaN are the same setting
