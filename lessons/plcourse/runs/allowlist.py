"""What a config may name: the classes of the suite's catalog, classes of a few libraries, and torchvision's models.

A YAML file comes from somewhere, and instantiating what it names runs it. `admits` therefore decides by name alone,
before anything is imported: below `plcourse` only the classes of the catalog, below the libraries' packages in
`FOREIGN` only capitalised names, which are those of classes, and names in `torchvision.models`. What such a name leads
to is then imported and checked as an object: it is a class defined in one of these packages, or a function that builds
a model of torchvision. Everything else, functions of torch and a user's own classes alike, needs ``--trust MODULE`` or
``PLCOURSE_TRUST``.
"""

import inspect
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from jsonargparse import Namespace, _common, set_parsing_settings

from plcourse import catalog
from plcourse.errors import UserError

MODELS = "torchvision.models"
FOREIGN = (
    # what models, optimizers and schedules are made of
    "torch.nn",
    "torch.optim",
    "torch.distributed.algorithms.ddp_comm_hooks",
    "torch.distributed.fsdp",
    "torchmetrics",
    MODELS,
    "torchvision.ops",
    "torchvision.transforms",
    # what a Trainer is made of
    "pytorch_lightning.accelerators",
    "pytorch_lightning.callbacks",
    "pytorch_lightning.demos",
    "pytorch_lightning.loggers",
    "pytorch_lightning.plugins",
    "pytorch_lightning.profilers",
    "pytorch_lightning.strategies",
    "pytorch_lightning.tuner",
    "lightning_fabric.plugins",
    "lightning_fabric.accelerators",
    # values that arguments take
    "datetime",
    "pathlib",
)
_RUNS_ARGUMENTS = "LambdaCallback"  # a class, but all it does is to call the functions that it is given
_WEIGHTS = ("weights", "weights_backbone", "pretrained", "pretrained_backbone")


class _Verdicts(dict[str, bool]):
    """Answers whether an import path is admitted, where jsonargparse looks for its longest listed prefix.

    jsonargparse asks for each path that a value names before the import, and again for where the object is defined.
    """

    def __init__(self, trusted: Iterable[str]) -> None:
        super().__init__()
        self._trusted = tuple(trusted)

    def __contains__(self, path: object) -> bool:
        return True

    def __getitem__(self, path: str) -> bool:
        return admits(path, self._trusted) and (covered(path, self._trusted) or _leads_to_a_class(path))


def install(trusted: Iterable[str]) -> None:
    """Sets the rule for this process, before anything is parsed.

    Args:
        trusted: modules of which everything is admitted; the current folder becomes importable when there are any.

    Raises:
        UserError: a name that is not a dotted module path.
    """
    trusted = list(trusted)
    for module in trusted:
        if not all(part.isidentifier() for part in module.split(".")) or module.split(".")[0] == "jsonargparse":
            raise UserError(f"--trust takes a module such as my_models, not {module!r}")
    if trusted and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    set_parsing_settings(
        import_path_denylist=["*"],  # stands if jsonargparse no longer reads its verdicts from below
        validate_subclass_spec_in_any=True,
        instantiate_subclass_spec_in_any=False,
        config_read_mode_urls_enabled=False,
    )
    # its public lists know prefixes only, to which a function in an allowed module belongs as well
    _common.parsing_settings["import_path_verdicts"] = _Verdicts(trusted)


def admits(path: str, trusted: Iterable[str] = ()) -> bool:
    """Whether a config may name an import path, decided by the name alone.

    Args:
        path: a dotted path, such as `torch.optim.SGD`.
        trusted: modules of which everything is admitted.
    """
    if covered(path, trusted) or path in catalog.CLASSES.values():
        return True
    name = path.rpartition(".")[2]
    if not covered(path, FOREIGN) or name == _RUNS_ARGUMENTS:
        return False
    return name[0].isupper() or covered(path, [MODELS]) or path == "datetime.timedelta"


def covered(path: str, modules: Iterable[str]) -> bool:
    """Whether a path is one of some modules or lies in one."""
    return any(path == module or path.startswith(f"{module}.") for module in modules)


def _leads_to_a_class(path: str) -> bool:
    """Imports an admitted name; true for a class, for a constructor of torchvision and where nothing is found."""
    try:
        found = resolve_name(path)
    except (ImportError, AttributeError):
        return True  # jsonargparse says what is missing
    if inspect.isclass(found):
        return found.__name__ != _RUNS_ARGUMENTS  # jsonargparse asks about the place where it is defined itself
    return covered(path, [MODELS]) and any(found is builder for builder in constructors())


def constructors() -> list[Any]:
    """The functions that build a model of `torchvision.models`, such as `resnet18`."""
    models = import_module(MODELS)
    return [models.get_model_builder(name) for name in models.list_models()]


def check(tree: Any, trusted: Iterable[str], label: str) -> None:
    """Refuses a config by its class paths alone, before anything is imported.

    Args:
        tree: a config as plain data, in which classes of the suite have their import paths.
        trusted: modules of which everything is admitted.
        label: the file, for the message.

    Raises:
        UserError: a dotted ``class_path`` that is not admitted.
    """
    if isinstance(tree, Mapping):
        path = tree.get("class_path")
        if isinstance(path, str) and "." in path and not admits(path, trusted):
            raise refused(path, label)
        for value in tree.values():
            check(value, trusted, label)
    elif isinstance(tree, list):
        for value in tree:
            check(value, trusted, label)


def check_downloads(config: Any, trusted: Iterable[str], key: str = "") -> None:
    """Refuses a model of torchvision with trained weights, which it would download, unless that is trusted.

    Args:
        config: a parsed config with the defaults of every class.
        trusted: modules of which everything is admitted.
        key: where it stands, for the message.

    Raises:
        UserError: weights that are not null.
    """
    if covered(MODELS, trusted):
        return
    if isinstance(config, list):
        for place, value in enumerate(config):
            check_downloads(value, trusted, f"{key}.{place}")
    pairs = config if isinstance(config, dict) else vars(config) if isinstance(config, Namespace) else {}
    path = pairs.get("class_path")
    if isinstance(path, str) and covered(path, [MODELS]):
        for part in ("init_args", "dict_kwargs"):
            for name, value in dict(pairs.get(part) or {}).items():
                if name in _WEIGHTS and value not in (None, False):
                    raise UserError(
                        f"{key}.{part}.{name} is {value}, which downloads trained weights: set it to null, or allow "
                        f"the download with --trust {MODELS}"
                    )
    for name, value in pairs.items():
        check_downloads(value, trusted, f"{key}.{name}" if key else name)


def refused(path: str, label: str = "") -> UserError:
    """The error for an import path that is not admitted."""
    module, _, name = path.rpartition(".")
    top = path.partition(".")[0]
    hint = ""
    if top not in {"plcourse", *sys.stdlib_module_names} and name != _RUNS_ARGUMENTS:
        if covered(path, FOREIGN):
            hint = f"; it is no such class: if you trust it, add --trust {module}"
        elif top not in {entry.partition(".")[0] for entry in FOREIGN}:
            hint = f"; if it is your own and you trust it, add --trust {module or path}"
    return UserError(
        f"{label}{': ' if label else ''}'{path}' is refused: a config names classes of plcourse, torch.nn, "
        f"torch.optim, torchmetrics, torchvision and Lightning only{hint}"
    )
