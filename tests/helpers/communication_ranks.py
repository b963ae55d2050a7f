"""Two gloo ranks that time their communication, for test_communication; prints one JSON object per rank.

python communication_ranks.py RANK PORT
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel

from plcourse.training.communication import CommunicationTimer

PAUSE = 0.2  # seconds by which rank 1 is late, well above what a busy machine adds


def wrapped(hook: Callable[..., Any] | None = None, timed: bool = True, **options: Any) -> Any:
    """The same model every time, wrapped, and its timer."""
    torch.manual_seed(0)
    layers = [nn.Linear(256, 256) for _ in range(options.pop("layers", 4))]
    module = DistributedDataParallel(nn.Sequential(*layers), **options)
    if hook is not None:
        module.register_comm_hook(None, hook)
    return module, CommunicationTimer(module) if timed else None


def step(module: DistributedDataParallel, number: int) -> None:
    """One forward and backward pass on samples of this rank."""
    module.zero_grad()
    draw = torch.Generator().manual_seed(100 * number + dist.get_rank())
    module(torch.randn(32, 256, generator=draw)).square().mean().backward()


def gradients(module: DistributedDataParallel) -> torch.Tensor:
    """All of them in one row."""
    return torch.cat([parameter.grad.flatten() for parameter in module.parameters() if parameter.grad is not None])


def late_rank(**options: Any) -> dict[str, Any]:
    """Five steps; rank 1 sleeps before the fourth: until then DDP arranges its buckets, and waits in forward passes."""
    module, timer = wrapped(**options)
    for number in range(5):
        if number == 3 and dist.get_rank() == 1:
            time.sleep(PAUSE)
        step(module, number)
        timer.look()
    seen = timer.take()
    return {"total": seen.total, "exposed": seen.exposed, "steps": seen.steps, "again": timer.take() is None}


def accumulated() -> dict[str, Any]:
    """Six passes of which two communicate."""
    module, timer = wrapped()
    step(module, 0)
    for number in range(1, 7):
        if number % 3:
            with module.no_sync():
                step(module, number)
        else:
            step(module, number)
        timer.look()
    timer.look()
    return {"steps": timer.take().steps}


def same_gradients(hook: Callable[..., Any] | None) -> bool:
    """Whether a timed step has the very gradients of one that is not timed."""
    timed, timer = wrapped(hook)
    plain, _ = wrapped(hook, timed=False)
    for number in range(3):
        step(timed, number)
        timer.look()
        step(plain, number)
    return torch.equal(gradients(timed), gradients(plain))


def main() -> None:
    """Joins the group, measures, prints."""
    rank, port = int(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", rank=rank, world_size=2)
    found = {
        "plain": late_rank(),
        "static graph": late_rank(static_graph=True),
        "one bucket": late_rank(layers=1, gradient_as_bucket_view=True),
        "fp16": late_rank(hook=fp16_compress_hook),
        "accumulated": accumulated(),
        "same gradients": same_gradients(None),
        "same gradients with fp16": same_gradients(fp16_compress_hook),
    }
    print(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
