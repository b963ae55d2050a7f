"""Decides which messages of Lightning a command shows."""

import logging
import warnings
from pathlib import Path

_ON_REQUEST = ("callbacks", "profilers", "tuner")  # packages of Lightning


def quieten() -> None:
    """Silences messages of Lightning that the suite replaces or that do not concern a user.

    Callbacks, profilers and tuners are there on request, so that their messages are shown.
    """
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in (*_ON_REQUEST, "utilities.rank_zero"):
        logging.getLogger(f"pytorch_lightning.{name}").setLevel(logging.INFO)
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_requested)
    # The suite's loader chooses the number of workers; small data in memory is fastest without any.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # Lightning 2.6 calls a function that torch 2.15 deprecates.
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*", category=FutureWarning)
    # A short fit logs less often than every 50 steps on purpose.
    warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging interval")


def _is_requested(record: logging.LogRecord) -> bool:
    """Whether a message from the logger that all of Lightning shares comes from a callback or the user's code."""
    file = Path(record.pathname).as_posix()
    _, inside, place = file.rpartition("/pytorch_lightning/")
    is_requested = place.split("/")[0] in _ON_REQUEST if inside else "/lightning_fabric/" not in file
    return record.levelno > logging.INFO or is_requested
