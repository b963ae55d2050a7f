"""A data loader that saves its epoch and position in checkpoints.

torch's DataLoader does not know either. Lightning calls ``iter()`` before it sets the sampler's epoch, so that a loader
which decides at ``iter()`` what to read replays the wrong permutation after a resume in epoch 1 or later; and it
replaces the sampler of every DataLoader. `BatchLoader` is therefore not a DataLoader, and decides at the first
``next()``.
"""

import ctypes
import signal
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.util import Finalize
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from plcourse.data.protocols import BatchSampler, Fetcher
from plcourse.data.samplers import Accumulation
from plcourse.errors import RunFailed, UserError, first_line

_WORKER_SECONDS = 1800.0  # to wait for a batch, as long as torch's collectives wait for a rank
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h: the signal to receive when the parent dies
_RESTORE = {
    "n": "the number of training samples",
    "global_batch_size": "batch_size times the number of processes",
    "seed": "the run's seed",
}


class Batch(dict[str, Any]):
    """A batch by field that moves only its tensors to a device.

    Lightning calls the ``to`` of an object that has one. It would otherwise walk through the batch, including the id of
    every sample, which takes 49 us for 32 samples.
    """

    def to(self, device: torch.device | str) -> "Batch":
        """The batch with its tensors on `device`; copies of pinned tensors to a GPU do not block."""
        on_gpu = torch.device(device).type == "cuda"
        return Batch(
            {k: v.to(device, non_blocking=on_gpu) if isinstance(v, torch.Tensor) else v for k, v in self.items()}
        )


def sample_ids(batch: object) -> Sequence[Any] | np.ndarray | None:
    """The ids of a batch's samples, names or integers, as a list or an array; None where it has not one for each."""
    ids = batch.get("id") if isinstance(batch, Mapping) else None
    if isinstance(ids, torch.Tensor):
        ids = ids.cpu().numpy()
    is_list = isinstance(ids, list | tuple) or (isinstance(ids, np.ndarray) and ids.ndim == 1)
    return ids if is_list else None


class BatchLoader:
    """The batches of one process, in the order of a sampler that is a function of the epoch.

    The batches are bit for bit the same with any number of workers. Training batches get a ``rank_weight`` (float): the
    mean of the weighted losses over the processes, and over the batches of an optimizer step, is the exact mean over
    samples.

    Args:
        data: makes a batch from sample numbers and an epoch; must be a pure function of the two.
        sampler: chooses the samples of each batch.
        num_workers: processes that fetch ahead; 0 fetches in this process, without a DataLoader.
        pin_memory: whether to put tensors into page-locked memory, for copies to a GPU.
        persistent_workers: whether to keep the workers from one epoch to the next.
        accumulation: which batches make one optimizer step; None for a step with every batch.
    """

    part = ""  # the name of the part that is read, where it has one

    def __init__(
        self,
        data: Fetcher,
        sampler: BatchSampler,
        num_workers: int = 0,
        pin_memory: bool = False,
        persistent_workers: bool = True,
        accumulation: Accumulation | None = None,
    ) -> None:
        if num_workers < 0:
            raise ValueError(f"num_workers={num_workers}: give 0 or more")
        self.data = data
        self.plan = sampler  # Lightning replaces an attribute ``sampler`` when it overfits batches
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.persistent_workers = persistent_workers
        self.accumulation = accumulation
        self._epoch = 0
        self._position = 0  # batches handed out in this epoch
        self._start = 0  # where the next pass starts: not 0 only after load_state_dict
        self._workers: DataLoader | None = None
        self._pass = _Pass(sampler)
        self._ending: object = None  # the workers that will be shut down with the interpreter

    def replan(self, sampler: BatchSampler) -> None:
        """Reads the coming passes by another sampler of the same samples, with the same number of batches."""
        self.plan = self._pass.sampler = sampler

    def with_plan(self, sampler: BatchSampler) -> "BatchLoader":
        """A loader of the same data in other batches, at its start."""
        return BatchLoader(self.data, sampler, self.num_workers, self.pin_memory, self.persistent_workers)

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        """A pass over the epoch; epoch and starting position are read at the first ``next()``, not here."""
        epoch, position = self._epoch, self._start
        self._start = 0
        self._position = position
        sampler, accumulation = self.plan, self.accumulation
        first = position  # first batch of the optimizer step; batches before a resume are not in its gradient
        for fetched in self._fetched(epoch, position):
            batch = Batch(fetched)
            rank_weight = sampler.rank_weight(position)
            if rank_weight is not None and accumulation is not None:
                end = accumulation.end(position, len(sampler))
                rank_weight *= accumulation.weight(sampler, position, first, end)
                if position + 1 == end:
                    first = end
            if rank_weight is not None:
                batch["rank_weight"] = rank_weight
            position += 1
            self._position = position
            yield batch

    def _fetched(self, epoch: int, start: int) -> Iterator[dict[str, Any]]:
        if self.num_workers:
            yield from self._fetched_by_workers(epoch, start)
            return
        fetch = self.data.fetch
        for indices in self.plan.batches(epoch, start):
            batch = fetch(indices, epoch)
            yield _pinned(batch) if self.pin_memory else batch

    def _fetched_by_workers(self, epoch: int, start: int) -> Iterator[dict[str, Any]]:
        if self._workers is None:
            self._workers = DataLoader(
                _Fetches(self.data),
                batch_size=None,
                sampler=self._pass,
                num_workers=self.num_workers,
                pin_memory=self.pin_memory,
                persistent_workers=self.persistent_workers,
                worker_init_fn=_follow_main_process,
                timeout=_WORKER_SECONDS,
                # torch draws a base seed per pass; drawn from the global generator, it would change dropout
                generator=torch.Generator(),
            )
        self._pass.epoch, self._pass.start = epoch, start
        iterator = iter(self._workers)
        if iterator is not self._ending:
            self._ending = iterator
            # must happen before multiprocessing ends its children with SIGTERM, which the workers ignore
            Finalize(iterator, _shut_down, (weakref.ref(iterator),), exitpriority=100)
        try:
            for batch in iterator:
                if isinstance(batch, UserError):
                    raise batch
                yield batch
        except RuntimeError as error:
            if not str(error).startswith("DataLoader"):
                raise
            raise RunFailed(f"a loader worker failed: {first_line(error).rstrip('. ')}") from error

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next pass; a new epoch starts at batch 0, the same one changes nothing."""
        if epoch != self._epoch:
            self._epoch = epoch
            self._position = self._start = 0

    @property
    def batch_sampler(self) -> SimpleNamespace:
        """Lightning calls ``set_epoch`` of ``batch_sampler.sampler``."""
        return SimpleNamespace(sampler=self)

    def state_dict(self) -> dict[str, int]:
        """The epoch, the number of its batches that were handed out (not fetched), and what the position depends on."""
        return {
            "epoch": self._epoch,
            "position": self._position,
            "global_batch_size": self.plan.global_batch_size,
            "n": self.plan.n,
            "seed": self.plan.seed,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Makes the next pass start where `state` was taken; other batches in mid-epoch are a UserError."""
        here = self.state_dict()
        if state["position"] > 0:
            for key, meaning in _RESTORE.items():
                if state.get(key, here[key]) != here[key]:
                    raise UserError(
                        f"the checkpoint is {state['position']} batches into epoch {state['epoch']}, with "
                        f"{meaning} at {state[key]}; now it is {here[key]}: restore {state[key]}, or resume "
                        "from a checkpoint of an epoch's end"
                    )
        self._epoch = state["epoch"]
        self._position = self._start = state["position"]

    @property
    def _iterator(self) -> object | None:
        # Lightning's teardown looks here for the iterator of the workers, shuts it down and assigns None
        return None if self._workers is None else self._workers._iterator

    @_iterator.setter
    def _iterator(self, value: None) -> None:
        self._workers = self._ending = None

    def close(self) -> None:
        """Shuts down the workers; a later pass starts new ones."""
        if self._workers is not None and self._workers._iterator is not None:
            self._workers._iterator._shutdown_workers()  # pyright: ignore[reportAttributeAccessIssue] not public
        self._iterator = None


@dataclass(eq=False)
class _Pass(Sampler[tuple[int, np.ndarray]]):
    """The requests to the workers: (epoch, indices) for each batch of the next pass."""

    sampler: BatchSampler
    epoch: int = 0
    start: int = 0

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        epoch = self.epoch
        return ((epoch, indices) for indices in self.sampler.batches(epoch, self.start))

    def __len__(self) -> int:
        return len(self.sampler) - self.start


class _Fetches(Dataset[dict[str, Any] | UserError]):
    """The dataset of the workers: one request in, one batch out, or a UserError, which torch would wrap if raised."""

    def __init__(self, data: Fetcher) -> None:
        self.data = data

    def __getitem__(self, request: tuple[int, np.ndarray]) -> dict[str, Any] | UserError:
        epoch, indices = request
        try:
            batch = self.data.fetch(indices, epoch)
        except UserError as error:
            return error
        try:
            for value in batch.values():
                if isinstance(value, torch.Tensor):
                    value.share_memory_()  # torch would do it in a thread whose errors lose the batch
        except RuntimeError as error:
            space = "give it more space (docker run --shm-size), or use --data.init_args.num_workers 0"
            return RunFailed(
                f"/dev/shm is too small for the batches of the loader workers: {first_line(error)}; {space}"
            )
        return batch


def _shut_down(workers: weakref.ref[Any]) -> None:
    running = workers()
    if running is not None:
        running._shutdown_workers()


def _follow_main_process(worker_id: int) -> None:
    """Leaves Ctrl-C and SIGTERM, which reach the whole process group, to the main process.

    If that is killed, the workers die with it; torch's own watchdog would take up to seven seconds to notice.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _pinned(batch: dict[str, Any]) -> dict[str, Any]:
    return {k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
