"""Measures how long a training step communicates, and how much of that time it waits.

DistributedDataParallel starts to average the first gradients while the backward pass still computes the others (Li et
al. 2020, arXiv 2006.15704, section 3.2.3). So there are two times. *Communication* lasts from the start of the first
bucket's averaging to the end of the last one's. *Exposed* is the part after the last gradient was computed, in which
the step only waits: the only time that faster communication could save. Both include the wait for slower processes.

DDP measures these times itself, with the clock on CPUs and with stream events on GPUs. Reading them changes no
gradient and needs no communication hook, so a hook in the config stays in place::

    timer = CommunicationTimer(trainer.strategy.model)      # a DistributedDataParallel
    for batch in batches:
        step(batch)
        timer.look()
    timer.take().exposed                                    # seconds per step
"""

from dataclasses import dataclass

from torch import nn
from torch.nn.parallel import DistributedDataParallel

_NANOSECOND = 1e-9


@dataclass(frozen=True)
class Communication:
    """Mean times over some steps, in seconds per step."""

    total: float  # from the start of the first bucket's averaging to the end of the last one's
    exposed: float  # the part of `total` after the last gradient was computed
    steps: int  # timed steps, 1 or more


class CommunicationTimer:
    """Reads the communication times that a DDP module measures.

    A step's times are complete when the next forward pass begins, so `look` sees the step before the latest. Forward
    passes under `no_sync` communicate nothing and do not count as steps.

    Args:
        module: the module that trains, wrapped in DistributedDataParallel (`trainer.strategy.model` during a fit).
        every_n_steps: DDP times one step in this many, and its first ten; 1 or more. Timing a step takes about 3 us on
            a CPU; on a GPU the host waits for the end of that step before it begins the next.

    Raises:
        ValueError: the module is not wrapped in DistributedDataParallel, or the interval is below 1.
    """

    def __init__(self, module: nn.Module | None, every_n_steps: int = 1) -> None:
        if not isinstance(module, DistributedDataParallel):
            raise ValueError(f"module is a {type(module).__name__}; only DistributedDataParallel measures these times")
        if every_n_steps < 1:
            raise ValueError(f"every_n_steps is {every_n_steps}; it must be 1 or more")
        module._set_ddp_runtime_logging_sample_rate(every_n_steps)
        self._module = module
        self._seen = self._iteration()
        self._total = self._exposed = 0
        self._steps = 0

    def look(self) -> None:
        """Adds the latest timed step, unless it was added before; takes about 50 us, too long for every step."""
        times = self._module._get_ddp_logging_data()
        iteration = times.get("iteration", 0)
        total = times.get("backward_comm_time", 0)
        if iteration == self._seen or total <= 0:
            return
        self._seen = iteration
        self._total += total
        self._exposed += total - min(times.get("backward_compute_comm_overlap_time", 0), total)
        self._steps += 1

    def take(self) -> Communication | None:
        """Returns the means since the last call, None if there was no step, and resets them."""
        steps = self._steps
        if not steps:
            return None
        means = Communication(self._total * _NANOSECOND / steps, self._exposed * _NANOSECOND / steps, steps)
        self._total = self._exposed = self._steps = 0
        return means

    def _iteration(self) -> int:
        return self._module._get_ddp_logging_data().get("iteration", 0)
