"""The callback that lets a fit train a stretch of steps when it is told to, and times it.

A job stays warm from one round to the next: imports, data, model, process group and thread pools are there, and its
ranks sleep in the hook before a batch until their connection says go.
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

LEAD = 3  # steps before the clock starts, for caches and threads that have slept
_LOOK = 10  # steps from one look at DDP's own clock to the next, as a look costs 50 us
_NAP = 0.1  # seconds between two looks at signals while waiting


@dataclass(frozen=True)
class Order:
    """What a rank is to do next.

    Args:
        steps: training steps to time.
        exchange: whether the ranks exchange gradients.
        count: whether to count the operations of one step, before the clock starts.
    """

    steps: int
    exchange: bool = True
    count: bool = False


@dataclass(frozen=True)
class Report:
    """What a rank says of itself, or of a stretch.

    Args:
        seconds: from the moment when all ranks began to the moment when all were done.
        samples: that this rank trained on.
        memory: bytes; the rank's peak resident set, pages shared with other processes included, or its peak of
            allocated memory on a GPU.
        gradient_bytes: of all gradients that are exchanged in a step.
        parameters: numbers that are trained.
        flops: floating-point operations of one step where they were counted, forward and backward; else None.
        communication: by DDP's own clock, where gradients were exchanged; else None.
    """

    seconds: float
    samples: int
    memory: int
    gradient_bytes: int
    parameters: int
    flops: int | None
    communication: Communication | None


class TimedCallback(Callback):
    """Trains stretches of steps on order; `None` for an order ends the fit.

    Args:
        connection: where orders come from and reports go to; the first report says that the rank is ready.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._play: Generator[None, Any, None] | None = None
        self._flops: int | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Goes on to the batch that is about to be trained on."""
        if self._play is None:
            self._play = self._stretches(trainer)
            next(self._play)
        self._play.send(batch)

    def _stretches(self, trainer: pl.Trainer) -> Generator[None, Any, None]:
        batch = yield
        self._report(trainer)
        model = trainer.strategy.model
        timer = CommunicationTimer(model, _LOOK) if isinstance(model, DistributedDataParallel) else None
        while (order := self._next_order(trainer)) is not None:
            _exchange(trainer, order.exchange)
            if order.count:
                counter = FlopCounterMode(display=False)
                with counter:
                    batch = yield
                self._flops = counter.get_total_flops()
            for _ in range(LEAD):
                batch = yield
            _together(trainer)
            began, samples = time.perf_counter(), 0
            for step in range(order.steps):
                samples += _size(batch)
                batch = yield
                if timer is not None and order.exchange and step % _LOOK == 0:
                    timer.look()
            _together(trainer)
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
        gradient_bytes = sum(p.numel() * p.element_size() for p in trained)
        parameters = sum(p.numel() for p in trained)
        self._connection.send(
            Report(seconds, samples, _memory(trainer), gradient_bytes, parameters, self._flops, communication)
        )


def _together(trainer: pl.Trainer) -> None:
    """Waits until this rank's device, then every rank, has come here."""
    if trainer.strategy.root_device.type == "cuda":
        torch.cuda.synchronize()
    maximum((0,))


def _exchange(trainer: pl.Trainer, exchange: bool) -> None:
    """Whether the backward passes to come average the gradients, as DistributedDataParallel.no_sync does."""
    model = trainer.strategy.model
    if isinstance(model, DistributedDataParallel):
        model.require_backward_grad_sync = exchange


def _size(batch: Any) -> int:
    if isinstance(batch, dict) and "id" in batch:
        return len(batch["id"])
    return extract_batch_size(batch)


def _memory(trainer: pl.Trainer) -> int:
    if trainer.strategy.root_device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB
