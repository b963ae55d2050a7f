"""Eight advanced PyTorch Lightning lessons as one LightningCLI command suite.

The Python API; each name is imported when it is first used, so that `import plcourse` costs nothing::

    run = plcourse.run("fit", "ddp/two_processes", {"trainer.max_epochs": 1})
    run.test()
    plcourse.Run.load("ddp/two_processes/latest").metrics
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plcourse.cli.api import Run, run
    from plcourse.training.trainer import Trainer

__version__ = "0.2.0"
__all__ = ["Run", "Trainer", "__version__", "run"]

_HOMES = {"run": "plcourse.cli.api", "Run": "plcourse.cli.api", "Trainer": "plcourse.training.trainer"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'plcourse' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
