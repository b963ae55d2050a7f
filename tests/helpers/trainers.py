"""Trainers that print nothing."""

from typing import Any

from plcourse import Trainer
from plcourse.training.run_checkpoint import RunCheckpoint

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def quiet_trainer(**settings: Any) -> Trainer:
    """The suite's Trainer on one CPU, without a logger, a progress bar or a summary.

    Args:
        **settings: of the Trainer. Checkpoints are saved only if they name a folder, by ``default_root_dir``, or a
            `RunCheckpoint`.
    """
    saves = any(isinstance(callback, RunCheckpoint) for callback in settings.get("callbacks") or [])
    return Trainer(**{**QUIET, "enable_checkpointing": saves or "default_root_dir" in settings, **settings})
