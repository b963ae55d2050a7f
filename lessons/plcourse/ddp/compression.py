"""Sends gradients between processes in 16 bits instead of 32.

A *communication hook* decides how DDP averages a bucket of gradients. torch has one that casts the bucket to 16 bits,
averages it, and casts it back. Lightning's ``DDPStrategy(ddp_comm_hook=...)`` silently ignores hooks on CPUs; this
callback installs the hook wherever it works and raises an error where it does not.
"""

from typing import Literal

import pytorch_lightning as pl
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook, fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from plcourse.errors import UserError

_HOOKS = {"float16": fp16_compress_hook, "bfloat16": bf16_compress_hook}


class GradientCompression(Callback):
    """Sends gradients between processes in 16 bits; weights and optimizer keep their precision.

    The averages are rounded to 11 significant bits (float16) or 8 (bfloat16), so the losses differ slightly from those
    of one process. float16 overflows above 65,504. With a single process the callback has no effect.

    Args:
        dtype: ``float16``, or ``bfloat16``, which has the range of float32 and needs NCCL.

    Raises:
        UserError: the strategy is not DDP, or ``dtype`` is bfloat16 and the backend is not NCCL.
    """

    def __init__(self, dtype: Literal["float16", "bfloat16"] = "float16") -> None:
        self.dtype = dtype

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Installs the hook; DDP wraps the model just before."""
        if trainer.world_size == 1:
            return
        module = trainer.strategy.model
        if not isinstance(module, DistributedDataParallel):
            name = type(trainer.strategy).__name__
            raise UserError(f"GradientCompression needs a DDP strategy; trainer.strategy is {name}")
        if self.dtype == "bfloat16" and "nccl" not in str(dist.get_backend()):
            raise UserError("GradientCompression: gloo cannot average bfloat16; use dtype float16 on CPUs")
        module.register_comm_hook(None, _HOOKS[self.dtype])
