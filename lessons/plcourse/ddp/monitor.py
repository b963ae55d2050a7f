"""Where the time of a training goes, what memory it takes, and which samples each process saw.

    plcourse fit -c ddp/two_processes --trainer.callbacks+=ThroughputMonitor

All processes add up their figures every ``log_every_n_steps`` steps, so a row is about the whole job, not about rank 0.
"""

import resource
import sys
import time
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from plcourse.data.randoms import keys_of
from plcourse.processes.collectives import gather_numbers, gather_objects
from plcourse.training.communication import CommunicationTimer
from plcourse.training.metrics import is_logging_step, takes_step

_KIB = 1 if sys.platform == "darwin" else 1024  # bytes per unit of ru_maxrss
_MIB = 2**20


class ThroughputMonitor(Callback):
    """Logs throughput, waiting, memory and coverage of a fit.

    Validation, and the time between two epochs, are left out of every time. Logged every ``log_every_n_steps`` steps:

    - ``train/samples_per_second``: samples of all processes.
    - ``train/data_wait``: share of the time in which a process waits for its data loader, 0 to 1; mean over processes.
    - ``train/communication_wait``: share of the time in which a process waits for gradients after it has computed its
      own, 0 to 1; mean over processes. See `plcourse.training.communication`.
    - ``train/communication``: share of the time from the first bucket's averaging to the last one's, the part that the
      backward pass hides included.
    - ``train/peak_memory_mib``: most memory of any process so far, in MiB: resident memory on CPUs, memory that torch
      allocated on GPUs.

    And after each epoch, where batches have ids: ``train/samples_seen`` (different samples over all processes),
    ``train/samples_twice`` (looks beyond the first at a sample), and ``train/samples_rank_0`` and so on. An epoch that
    was resumed in its middle has none of these.

    Args:
        communication_every_n_steps: steps between two at which the communication is looked at, 1 or more. In a step
            that logs, the ranks meet before the backward pass and wait for each other there, so this should share no
            factor with ``log_every_n_steps``; 7 shares none with 5, 10 or 50.
    """

    def __init__(self, communication_every_n_steps: int = 7) -> None:
        if communication_every_n_steps < 1:
            raise ValueError(f"communication_every_n_steps is {communication_every_n_steps}; it must be 1 or more")
        self.communication_every_n_steps = communication_every_n_steps
        self._timer: CommunicationTimer | None = None
        self._steps = self._steps_logged = 0
        self._started: float | None = None
        self._seconds = 0.0
        self._waited = 0.0
        self._samples = 0
        self._ids: list[str] = []
        self._whole_epoch = True
        self._keys: dict[str, int] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock, and asks DDP to time its communication."""
        self._steps = self._steps_logged = self._samples = 0
        self._seconds, self._started = 0.0, time.perf_counter()  # an epoch resumed in its middle has no start
        self._waited = _seconds_waited(trainer)
        if isinstance(trainer.strategy.model, DistributedDataParallel):
            self._timer = CommunicationTimer(trainer.strategy.model, self.communication_every_n_steps)
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(trainer.strategy.root_device)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock and the list of samples."""
        self._ids, self._whole_epoch = [], True
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts, and logs when a step is due to be logged."""
        ids = batch.get("id") if isinstance(batch, dict) else None
        if ids is not None:
            self._whole_epoch = self._whole_epoch and (batch_idx == 0 or bool(self._ids))
            self._ids.extend(ids)
        self._samples += len(ids) if ids is not None else _size(batch)
        if not takes_step(trainer):
            return
        # DDP timed every so many steps, counted from 1; the times of one are complete a step later
        if self._timer is not None and self._steps % self.communication_every_n_steps == 0:
            self._timer.look()
        self._steps += 1
        if is_logging_step(trainer):
            self._log_window(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops the clock."""
        self._pause()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lets the clock go on."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops the clock, and compares what the processes saw."""
        self._pause()
        ranks = gather_objects(self._keys_seen() if self._whole_epoch else None)
        if any(keys is None for keys in ranks) or not sum(map(len, ranks)):
            return
        seen = int(np.unique(np.concatenate(ranks)).size)
        counts = {f"train/samples_rank_{rank}": len(keys) for rank, keys in enumerate(ranks)}
        twice = sum(counts.values()) - seen
        self._write(trainer, {"train/samples_seen": seen, "train/samples_twice": twice, **counts}, last_step=True)

    def _pause(self) -> None:
        if self._started is not None:
            self._seconds += time.perf_counter() - self._started
            self._started = None

    def _log_window(self, trainer: pl.Trainer) -> None:
        self._pause()
        self._started = time.perf_counter()
        seconds, waited, steps = self._seconds, _seconds_waited(trainer), self._steps - self._steps_logged
        communication = self._timer.take() if self._timer is not None else None
        exposed, total = (communication.exposed, communication.total) if communication else (0.0, 0.0)
        shares = ((waited - self._waited) / seconds, exposed * steps / seconds, total * steps / seconds)
        ranks = np.array(gather_numbers((self._samples, _peak_memory(trainer), *shares)))
        data_wait, wait, share = ranks[:, 2:].mean(0).clip(0, 1)
        metrics = {
            "train/samples_per_second": ranks[:, 0].sum() / seconds,
            "train/data_wait": data_wait,
            "train/peak_memory_mib": ranks[:, 1].max(),
        }
        if communication:
            metrics |= {"train/communication_wait": wait, "train/communication": share}
        self._write(trainer, metrics)
        self._samples, self._seconds, self._waited, self._steps_logged = 0, 0.0, waited, self._steps

    def _write(self, trainer: pl.Trainer, metrics: dict[str, float], last_step: bool = False) -> None:
        # Straight to the loggers: these are about the run, not results that Lightning should average or monitor.
        step = trainer.fit_loop.epoch_loop._batches_that_stepped - last_step
        for logger in trainer.loggers:
            logger.log_metrics({**metrics, "epoch": trainer.current_epoch}, step=step)

    def _keys_seen(self) -> np.ndarray:
        """The keys of this epoch's samples, uint64; each is computed once in a run."""
        new = [name for name in self._ids if name not in self._keys]
        self._keys.update(zip(new, keys_of(new).tolist(), strict=True))
        return np.array([self._keys[name] for name in self._ids], np.uint64)


def _seconds_waited(trainer: pl.Trainer) -> float:
    return trainer.fit_loop.epoch_loop.seconds_waited  # pyright: ignore[reportAttributeAccessIssue]  (our loop)


def _size(batch: Any) -> int:
    """Samples in a batch without ids: the length of its first tensor."""
    values = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else [batch]
    return next((len(value) for value in values if isinstance(value, Tensor) and value.ndim), 0)


def _peak_memory(trainer: pl.Trainer) -> float:
    """Most memory of this process so far, in MiB."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB / _MIB
