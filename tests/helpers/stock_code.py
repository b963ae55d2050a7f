"""What a Lightning user brings: a callback that looks at the trainer, and classes that write checkpoints."""

from pathlib import Path
from typing import Any, ClassVar

import pytorch_lightning as pl
from pytorch_lightning.plugins.io import TorchCheckpointIO


class Looking(pl.Callback):
    """Keeps what user code finds in the trainer when training starts."""

    found: ClassVar[dict[str, Any]] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert trainer.log_dir is not None
        type(self).found = {
            "logger": type(pl_module.logger).__name__,
            "log_dir": Path(trainer.log_dir),
            "bar": type(trainer.progress_bar_callback).__name__,
            "bars": sum(isinstance(each, pl.callbacks.ProgressBar) for each in trainer.callbacks),  # pyright: ignore
        }


class OwnCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints as stock Lightning does."""
