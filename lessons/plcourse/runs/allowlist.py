"""Decides what a config may name: catalog classes, classes of a few libraries, and torchvision's models.

Instantiating what a YAML file names runs code. `admits` therefore decides by the name alone, before any import. It
allows the classes of the catalog, capitalized names (classes) in the packages of `FOREIGN`, and all names in
`torchvision.models`. The object is then imported and must be a class of these packages or a function that builds a
torchvision model. Everything else, including a user's own classes, needs ``--trust MODULE`` or ``PLCOURSE_TRUST``.
"""

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name

from jsonargparse import Namespace, _common, set_parsing_settings

from plcourse import catalog
from plcourse.errors import UserError, is_inside, locate_errors_in
from plcourse.runs import lightning_imports

MODELS = "torchvision.models"
FOREIGN = (
    # for models, optimizers and schedules
    "torch.nn",
    "torch.optim",
    "torch.distributed.algorithms.ddp_comm_hooks",
    "torch.distributed.fsdp",
    "torchmetrics",
    MODELS,
    "torchvision.ops",
    "torchvision.transforms",
    # for a Trainer
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
    # values of arguments
    "datetime",
    "pathlib",
)
_SINGLE = (  # names besides the classes of these packages
    "pytorch_lightning.cli.ReduceLROnPlateau",
    "pytorch_lightning.callbacks.finetuning.multiplicative",  # a function, the default of `BackboneFinetuning`
)
_RUNS_ARGUMENTS = "LambdaCallback"  # a class, but it only calls the functions that it gets
# Modules of `FOREIGN` with classes that download networks, load pickles, or write where their own config files say.
_UNSAFE = (
    "pytorch_lightning.demos.mnist_datamodule",
    "pytorch_lightning.demos.transformer",
    "pytorch_lightning.strategies.deepspeed",
    "torchmetrics.audio.dnsmos",
    "torchmetrics.audio.nisqa",
    "torchmetrics.functional",
    *(f"torchmetrics.image.{name}" for name in ("arniqa", "dists", "fid", "inception", "kid", "lpip", "mifid")),
    "torchmetrics.image.perceptual_path_length",
    "torchmetrics.multimodal",
    *(f"torchmetrics.text.{name}" for name in ("bert", "infolm", "rouge", "sacre_bleu")),
)
_WEIGHTS = ("weights", "weights_backbone", "pretrained", "pretrained_backbone")


class _Verdicts(dict[str, bool]):
    """Answers whether an import path is admitted, in place of jsonargparse's table of prefixes.

    jsonargparse looks up each path before the import, and then the path where the object is defined.
    """

    def __init__(self, trusted: Iterable[str]) -> None:
        super().__init__()
        self._trusted = tuple(trusted)

    def __contains__(self, path: object) -> bool:
        return True

    def __getitem__(self, path: str) -> bool:
        known = path in _SINGLE or is_inside(path, self._trusted)
        return admits(path, self._trusted) and (known or _leads_to_a_class(path))


def install(trusted: Iterable[str]) -> None:
    """Sets the rule of this process; call it before anything is parsed.

    If any modules are trusted, the current folder becomes importable, and they can ``import lightning``.

    Raises:
        UserError: a name is not a dotted module path.
    """
    trusted = list(trusted)
    for module in trusted:
        if not all(part.isidentifier() for part in module.split(".")) or module.split(".")[0] == "jsonargparse":
            name = Path(module).stem
            hint = f"; for the file {module}: --trust {name}" if module.endswith(".py") and name.isidentifier() else ""
            raise UserError(f"--trust takes a module such as my_models, not {module!r}{hint}")
    locate_errors_in(trusted)
    if trusted:
        lightning_imports.install()
        if str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))
    set_parsing_settings(
        import_path_denylist=["*"],  # remains in force if jsonargparse stops reading the verdicts below
        validate_subclass_spec_in_any=True,
        instantiate_subclass_spec_in_any=False,
        config_read_mode_urls_enabled=False,
    )
    # its public lists know only prefixes, which would admit the functions of an allowed module
    _common.parsing_settings["import_path_verdicts"] = _Verdicts(trusted)


def admits(path: str, trusted: Iterable[str] = ()) -> bool:
    """Returns whether a config may name a path such as `torch.optim.SGD`, or anything in a trusted module."""
    module, _, name = path.rpartition(".")
    if is_inside(path, trusted) or path in catalog.CLASSES.values() or path in _SINGLE:
        return True
    if module == catalog.__name__ and name in catalog.CLASSES:  # the name of a suite class in a checkpoint
        return True
    if not is_inside(path, FOREIGN) or name == _RUNS_ARGUMENTS:
        return False
    return name[0].isupper() or is_inside(path, [MODELS]) or path == "datetime.timedelta"


def _leads_to_a_class(path: str) -> bool:
    """Imports an admitted name; True for a class, a constructor of torchvision, and a name that does not exist."""
    try:
        found = resolve_name(path)
    except (ImportError, AttributeError):
        return True  # jsonargparse reports what is missing
    if inspect.isclass(found):  # jsonargparse looks up its module as well
        return found.__name__ != _RUNS_ARGUMENTS and not is_inside(found.__module__, _UNSAFE)
    return is_inside(path, [MODELS]) and any(found is builder for builder in constructors())


def constructors() -> list[Callable[..., object]]:
    """Returns the functions that build a model of `torchvision.models`, such as `resnet18`."""
    models = import_module(MODELS)
    return [models.get_model_builder(name) for name in models.list_models()]


def check(tree: object, trusted: Iterable[str], label: str) -> None:
    """Raises a UserError if a ``class_path`` of a config is not admitted; `label` is the file, for the message."""
    if isinstance(tree, Mapping):
        path = tree.get("class_path")
        if isinstance(path, str) and "." in path and not admits(path, trusted):
            raise refused(path, label)
        for value in tree.values():
            check(value, trusted, label)
    elif isinstance(tree, list):
        for value in tree:
            check(value, trusted, label)


def check_downloads(config: object, trusted: Iterable[str], key: str = "") -> None:
    """Raises a UserError if a model of torchvision would download weights, unless torchvision's models are trusted.

    The parsed config must contain the defaults of every class; `key` is its key, for the message.
    """
    if is_inside(MODELS, trusted):
        return
    if isinstance(config, list):
        for place, value in enumerate(config):
            check_downloads(value, trusted, f"{key}.{place}")
    pairs = config if isinstance(config, dict) else vars(config) if isinstance(config, Namespace) else {}
    path = pairs.get("class_path")
    if isinstance(path, str) and is_inside(path, [MODELS]):
        for part in ("init_args", "dict_kwargs"):
            for name, value in dict(pairs.get(part) or {}).items():
                if name in _WEIGHTS and value not in (None, False):
                    remedy = f"set it to null, or allow the download with --trust {MODELS}"
                    raise UserError(f"{key}.{part}.{name} is {value}, which downloads trained weights: {remedy}")
    for name, value in pairs.items():
        check_downloads(value, trusted, f"{key}.{name}" if key else name)


def refused(path: str, label: str = "") -> UserError:
    """Returns the error for an import path that is not admitted."""
    module, _, name = path.rpartition(".")
    top = path.partition(".")[0]
    hint = ""
    if top not in {"plcourse", *sys.stdlib_module_names} and name != _RUNS_ARGUMENTS:
        if is_inside(path, FOREIGN):
            hint = f"; it is not one of their classes that do no harm: if you trust it, add --trust {module}"
        elif top not in {entry.partition(".")[0] for entry in FOREIGN}:
            hint = f"; if it is your own and you trust it, add --trust {module or path}"
    return UserError(
        f"{label}{': ' if label else ''}'{path}' is refused: a config names classes of plcourse, torch.nn, "
        f"torch.optim, torchmetrics, torchvision and Lightning only{hint}"
    )
