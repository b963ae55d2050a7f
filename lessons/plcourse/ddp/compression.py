"""Gradients that travel in half the bytes.

A *communication hook* decides how DDP averages a bucket of gradients. torch brings one that casts the bucket to 16
bits, averages it, and casts it back. Lightning's ``DDPStrategy(ddp_comm_hook=...)`` installs hooks on GPUs only and
says nothing elsewhere; this callback installs it wherever it works, and says so where it does not.
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
    """Sends gradients between the processes in 16 bits; the weights and the optimizer stay as they are.

    The averages are rounded to 11 significant bits (float16) or 8 (bfloat16), so the losses are no longer those of one
    process to the last digit. float16 overflows above 65,504. In a single process there is nothing to send.

    Args:
        dtype: ``float16``, or, with NCCL, ``bfloat16``, which has the range of single precision.

    Raises:
        UserError: the strategy is not DDP, or gloo is to average bfloat16.
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
            raise UserError(f"GradientCompression works on DDP's buckets; trainer.strategy is {name}")
        if self.dtype == "bfloat16" and "nccl" not in str(dist.get_backend()):
            raise UserError("GradientCompression: gloo cannot average bfloat16; dtype: float16 works on CPUs")
        module.register_comm_hook(None, _HOOKS[self.dtype])
