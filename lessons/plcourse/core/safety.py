"""What a config may name: classes of the suite, torch, torchmetrics, torchvision and Lightning, and nothing else.

A YAML file is data from somewhere; instantiating what it names is running it. So nothing is imported that is not on
the list below, functions such as `torch.hub.load` are not on it, and a user's own module joins it only by
``--trust MODULE`` or ``PLCOURSE_TRUST``. jsonargparse holds to the list for every import path that comes from a
config or the command line, and checks where an object is defined, so that no re-export leads around it.
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jsonargparse import set_parsing_settings

from plcourse.core.errors import UserError

ALLOWED = (
    "plcourse",
    # what models, optimizers and schedules are made of
    "torch.nn",
    "torch.optim",
    "torch.distributed.algorithms.ddp_comm_hooks",
    "torch.distributed.fsdp",
    "torchmetrics",
    "torchvision.models",
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
REFUSED = (
    # inside allowed packages, but these run or fetch code
    "plcourse.api",
    "plcourse.cli",
    "plcourse.__main__",
    "plcourse.core.launch",
    "torch.nn.modules.module.register_module_forward_hook",
    "pytorch_lightning.callbacks.lambda_function",
    "pytorch_lightning.callbacks.LambdaCallback",
)

_trusted_before: set[str] = set()


def install(trusted: Iterable[str]) -> None:
    """Sets the list for this process, before anything is parsed.

    Args:
        trusted: the user's own modules; the current folder becomes importable when there are any.

    Raises:
        UserError: a name that is not a dotted module path.
    """
    trusted = list(trusted)
    for module in trusted:
        if not all(part.isidentifier() for part in module.split(".")) or module.split(".")[0] == "jsonargparse":
            raise UserError(f"--trust takes a module such as my_models, not {module!r}")
    if trusted and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    _trusted_before.update(trusted)
    set_parsing_settings(
        # jsonargparse only ever adds to its lists; what an earlier command in this process trusted is taken back
        import_path_denylist=["*", *REFUSED, *(_trusted_before - set(trusted))],
        import_path_allowlist=[*ALLOWED, *trusted],
        validate_subclass_spec_in_any=True,
        instantiate_subclass_spec_in_any=False,
        config_read_mode_urls_enabled=False,
    )


def check(tree: Any, trusted: Iterable[str], label: str) -> None:
    """Refuses a config by its class paths alone, before anything is imported.

    Args:
        tree: a config as plain data.
        trusted: the user's own modules.
        label: the file, for the message.

    Raises:
        UserError: a dotted ``class_path`` outside the list.
    """
    if isinstance(tree, Mapping):
        path = tree.get("class_path")
        if isinstance(path, str) and "." in path and not _allowed(path, trusted):
            raise refused(path, label)
        for value in tree.values():
            check(value, trusted, label)
    elif isinstance(tree, list):
        for value in tree:
            check(value, trusted, label)


def refused(path: str, label: str = "") -> UserError:
    """The error for an import path that is not on the list."""
    module = path.rpartition(".")[0] or path
    top = path.partition(".")[0]
    foreign = top in sys.stdlib_module_names or top in {entry.partition(".")[0] for entry in ALLOWED}
    hint = "" if foreign else f"; if it is your own and you trust it, add --trust {module}"
    return UserError(
        f"{label}{': ' if label else ''}'{path}' is refused: a config names classes of plcourse, torch.nn, "
        f"torch.optim, torchmetrics, torchvision and Lightning only{hint}"
    )


def _allowed(path: str, trusted: Iterable[str]) -> bool:
    def covers(entries: Iterable[str]) -> int:
        return max((len(entry) for entry in entries if path == entry or path.startswith(entry + ".")), default=0)

    return covers([*ALLOWED, *trusted]) > covers(REFUSED)
