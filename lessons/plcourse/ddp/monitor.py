"""Measures where the time of a training goes, how much memory it takes, and which samples each process saw.

    plcourse fit -c ddp/two_processes --trainer.callbacks+=ThroughputMonitor

The processes combine their figures every ``log_every_n_steps`` steps, so that a row describes the whole job.
"""

import resource
import sys
import time

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from plcourse.data.loader import sample_ids
from plcourse.data.randoms import keys_of
from plcourse.processes.collectives import gather_numbers, gather_objects
from plcourse.training.communication import CommunicationTimer
from plcourse.training.metrics import is_logging_step, takes_step

_KIB = 1 if sys.platform == "darwin" else 1024  # bytes per unit of ru_maxrss
_MIB = 2**20


class ThroughputMonitor(Callback):
    """Logs throughput, waiting times, memory and sample coverage of a fit.

    The times exclude validation and the pauses between epochs. Logged every ``log_every_n_steps`` steps:

    - ``train/samples_per_second``: samples of all processes.
    - ``train/data_wait``: fraction of the time spent waiting for the data loader, mean over processes.
    - ``train/communication_wait``: fraction of the time a process waits for the others' gradients after computing its
      own, mean over processes; see `plcourse.training.communication`.
    - ``train/communication``: fraction of the time between the start of the first bucket's averaging and the end of
      the last one's, including the part that overlaps with the backward pass.
    - ``train/peak_memory_mib``: largest memory of any process so far, in MiB: resident memory on CPUs, memory
      allocated by torch on GPUs.

    After each epoch, if batches have ids: ``train/samples_seen`` (distinct samples over all processes),
    ``train/samples_twice`` (repeated uses of a sample), and ``train/samples_rank_0`` and so on. An epoch that was
    resumed midway logs none of these.

    Args:
        communication_every_n_steps: measure the communication every so many steps, 1 or more. In a step that logs, the
            ranks already wait for each other before the backward pass, so choose a number coprime to
            ``log_every_n_steps``; 7 is coprime to 5, 10 and 50.
    """

    def __init__(self, communication_every_n_steps: int = 7) -> None:
        if communication_every_n_steps < 1:
            raise ValueError(f"communication_every_n_steps is {communication_every_n_steps}; it must be 1 or more")
        self.communication_every_n_steps = communication_every_n_steps
        self._timer: CommunicationTimer | None = None
        self._steps = self._steps_logged = self._samples = 0
        self._started: float | None = None  # None while the clock is stopped
        self._seconds = self._waited = 0.0
        self._ids: list[str | int] = []
        self._whole_epoch = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock and the timing of DDP's communication."""
        self._steps = self._steps_logged = self._samples = 0
        self._seconds, self._started = 0.0, time.perf_counter()  # an epoch resumed midway has no start hook
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
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Counts samples and steps, and logs at logging steps."""
        ids = sample_ids(batch)
        if ids is not None:
            self._whole_epoch = self._whole_epoch and (batch_idx == 0 or bool(self._ids))
            self._ids.extend(ids)
        self._samples += len(ids) if ids is not None else _size(batch)
        if not takes_step(trainer):
            return
        # the times of a step are complete one step later
        if self._timer is not None and self._steps % self.communication_every_n_steps == 0:
            self._timer.look()
        self._steps += 1
        if is_logging_step(trainer):
            self._log_window(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops the clock."""
        self._pause()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restarts the clock."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stops the clock and logs which samples the processes saw."""
        self._pause()
        gathered = gather_objects(keys_of(self._ids) if self._whole_epoch else None)
        ranks = [keys for keys in gathered if keys is not None]
        if len(ranks) < len(gathered) or not sum(map(len, ranks)):
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
        fractions = ((waited - self._waited) / seconds, exposed * steps / seconds, total * steps / seconds)
        ranks = np.array(gather_numbers((self._samples, _peak_memory(trainer), *fractions)))
        data_wait, communication_wait, communicating = ranks[:, 2:].mean(0).clip(0, 1)
        metrics = {
            "train/samples_per_second": ranks[:, 0].sum() / seconds,
            "train/data_wait": data_wait,
            "train/peak_memory_mib": ranks[:, 1].max(),
        }
        if communication:
            metrics |= {"train/communication_wait": communication_wait, "train/communication": communicating}
        self._write(trainer, metrics)
        self._samples, self._seconds, self._waited, self._steps_logged = 0, 0.0, waited, self._steps

    def _write(self, trainer: pl.Trainer, metrics: dict[str, float], last_step: bool = False) -> None:
        # straight to the loggers: these describe the run and are not for Lightning to average or monitor
        step = trainer.fit_loop.epoch_loop._batches_that_stepped - last_step
        for logger in trainer.loggers:
            logger.log_metrics({**metrics, "epoch": trainer.current_epoch}, step=step)


def _seconds_waited(trainer: pl.Trainer) -> float:
    return trainer.fit_loop.epoch_loop.seconds_waited  # pyright: ignore[reportAttributeAccessIssue]  (our loop)


def _size(batch: object) -> int:
    """Returns the number of samples in a batch without ids: the length of its first tensor."""
    values = batch.values() if isinstance(batch, dict) else batch if isinstance(batch, list | tuple) else [batch]
    return next((len(value) for value in values if isinstance(value, Tensor) and value.ndim), 0)


def _peak_memory(trainer: pl.Trainer) -> float:
    """Returns the largest memory of this process so far, in MiB."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / _MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB / _MIB
