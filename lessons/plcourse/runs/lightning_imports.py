"""Lets a user's modules ``import lightning``, and gives them the classes that the suite runs.

The package ``lightning`` holds copies of pytorch_lightning and lightning_fabric, so a LightningModule of the one is no
LightningModule of the other. Here ``lightning.pytorch`` and ``lightning.fabric`` are names of the installed packages,
whose classes are then identical, whether or not ``lightning`` is installed as well.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

from plcourse.catalog import installed_name
from plcourse.console import say

_FROM_PYTORCH = ("Trainer", "LightningModule", "LightningDataModule", "Callback", "seed_everything", "__version__")


def install() -> None:
    """Makes the package ``lightning`` importable in this process; says so if it is too late for that."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    if "lightning" in sys.modules:
        say(
            "warning: the package lightning is imported already, and its classes are not those of pytorch_lightning, "
            "which plcourse runs: import pytorch_lightning instead, or call plcourse before lightning is imported"
        )
        return
    sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds ``lightning`` and the modules in it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "lightning":
            return ModuleSpec(fullname, _Package(), is_package=True)
        installed = installed_name(fullname)
        if installed == fullname or find_spec(installed) is None:
            return None
        return ModuleSpec(fullname, _SecondName(installed))


class _Package(Loader):
    """Makes the module ``lightning``, with the names that the real one has."""

    def exec_module(self, module: ModuleType) -> None:
        pytorch, fabric = import_module("lightning.pytorch"), import_module("lightning.fabric")
        names = {name: getattr(pytorch, name) for name in _FROM_PYTORCH} | {"Fabric": fabric.Fabric}
        vars(module).update(names, __all__=list(names))


class _SecondName(Loader):
    """Gives an installed module a second name."""

    def __init__(self, installed: str) -> None:
        self.installed = installed

    def exec_module(self, module: ModuleType) -> None:
        # the import returns what it finds here; returned by `create_module`, the module would lose its own ``__spec__``
        sys.modules[module.__name__] = import_module(self.installed)
