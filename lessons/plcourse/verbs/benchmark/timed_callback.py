"""A callback that trains and times a stretch of steps whenever it is ordered to.

A job stays warm from one round to the next: imports, data, model, process group and thread pools are ready, and its
ranks sleep in the hook before a batch until an order arrives.
"""

import resource
import time
from collections.abc import Generator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities.data import extract_batch_size
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from plcourse.errors import Interrupted
from plcourse.processes.collectives import maximum
from plcourse.processes.rank_process import stop_requested
from plcourse.training.communication import Communication, CommunicationTimer

LEAD = 3  # steps before the clock starts, to warm up caches and threads
_LOOK = 10  # steps between two readings of DDP's own clock, which cost 50 us each
_NAP = 0.1  # seconds between two checks for signals while waiting


@dataclass(frozen=True)
class Order:
    """The next stretch of a rank."""

    steps: int  # training steps to time
    exchange: bool = True  # whether the ranks exchange gradients
    count: bool = False  # whether to count the operations of one step, before the clock starts


@dataclass(frozen=True)
class RankReport:
    """What a rank measured in a stretch."""

    seconds: float  # from the moment when all ranks began to the moment when all were done
    samples: int  # the samples that this rank trained on
    memory: int  # bytes: the peak resident set, including pages shared with other processes, or on a GPU the peak used
    gradient_bytes: int  # bytes of the gradients that are exchanged in a step
    parameters: int  # trained parameters
    flops: int | None  # floating-point operations of the forward and backward pass of one step; None if not counted
    communication: Communication | None  # as DDP's own clock shows it; None if no gradients were exchanged


class TimedCallback(Callback):
    """Trains stretches of steps on order; the order `None` ends the fit.

    Args:
        connection: orders come from it and reports go to it; the first report means that the rank is ready.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._schedule: Generator[None, Any, None] | None = None
        self._flops: int | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Hands the next batch to the stretch, which returns when it should be trained on."""
        if self._schedule is None:
            self._schedule = self._stretches(trainer)
            next(self._schedule)
        self._schedule.send(batch)

    def _stretches(self, trainer: pl.Trainer) -> Generator[None, Any, None]:
        batch = yield
        self._report(trainer)
        model = trainer.strategy.model
        timer = CommunicationTimer(model, _LOOK) if isinstance(model, DistributedDataParallel) else None
        while (order := self._next_order(trainer)) is not None:
            if isinstance(model, DistributedDataParallel):  # as DistributedDataParallel.no_sync does
                model.require_backward_grad_sync = order.exchange
            if order.count:
                counter = FlopCounterMode(display=False)
                with counter:
                    batch = yield
                self._flops = counter.get_total_flops()
            for _ in range(LEAD):
                batch = yield
            _synchronize(trainer)
            began, samples = time.perf_counter(), 0
            for step in range(order.steps):
                samples += len(batch["id"]) if isinstance(batch, dict) and "id" in batch else extract_batch_size(batch)
                batch = yield
                if timer is not None and order.exchange and step % _LOOK == 0:
                    timer.look()
            _synchronize(trainer)
            seconds = time.perf_counter() - began
            self._report(trainer, seconds, samples, timer.take() if timer is not None else None)
        trainer.should_stop = True
        while True:
            yield

    def _next_order(self, trainer: pl.Trainer) -> Order | None:
        while not self._connection.poll(_NAP):
            safe_point = trainer.safe_point  # pyright: ignore[reportAttributeAccessIssue]  (our Trainer)
            if stop := stop_requested() or safe_point.stop_signal:
                raise Interrupted(stop)
        return self._connection.recv()

    def _report(
        self, trainer: pl.Trainer, seconds: float = 0.0, samples: int = 0, communication: Communication | None = None
    ) -> None:
        trained = [p for p in trainer.lightning_module.parameters() if p.requires_grad]
        sizes = sum(p.nbytes for p in trained), sum(p.numel() for p in trained)
        self._connection.send(RankReport(seconds, samples, _memory(trainer), *sizes, self._flops, communication))


def _synchronize(trainer: pl.Trainer) -> None:
    """Waits for this rank's device, then for all ranks."""
    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.synchronize()
    maximum((0,))


def _memory(trainer: pl.Trainer) -> int:
    if trainer.strategy.root_device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
