"""The names that classes of the suite have in files. No torch."""

from collections.abc import Callable
from typing import Any

from plcourse import catalog


def short_class_names(tree: Any) -> Any:
    """Returns a copy of a config in which each ``class_path`` of a suite class is its catalog name, such as `MLP`."""
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


def _renamed(tree: Any, rename: Callable[[str], str]) -> Any:
    if isinstance(tree, list):
        return [_renamed(value, rename) for value in tree]
    if not isinstance(tree, dict):
        return tree
    copy = {key: _renamed(value, rename) for key, value in tree.items()}
    if isinstance(name := tree.get("class_path"), str):
        copy["class_path"] = rename(name)
    return copy
