"""The LightningCLI of the suite. Each name is imported when it is first used, because most of them import torch.

Your own project can use it as it is::

    from plcourse.cli import run_verb
    run_verb("fit", ["-c", "mine.yaml", "--trust", "my_models"])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plcourse.cli.api import latency, run_verb
    from plcourse.cli.course_cli import CourseCLI, Resolver, quieten

__all__ = ["CourseCLI", "Resolver", "latency", "quieten", "run_verb"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'plcourse.cli' has no attribute {name!r}")
    module = "plcourse.cli.api" if name in ("latency", "run_verb") else "plcourse.cli.course_cli"
    return getattr(import_module(module), name)
