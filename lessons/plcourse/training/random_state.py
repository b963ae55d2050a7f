"""Saves and restores the random states of a process, as plain types that a safe load of a checkpoint accepts."""

import random
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from plcourse.errors import UserError
from plcourse.processes.collectives import gather_states


class States(TypedDict):
    """The random states of one process."""

    python: tuple[Any, ...]
    numpy: tuple[str, Tensor, int, int, float]
    torch: Tensor
    cuda: list[Tensor]


class RandomState:
    """The Python, NumPy, torch and CUDA random states of all ranks, on their way into and out of a checkpoint."""

    def __init__(self) -> None:
        self._pending: States | None = None

    @staticmethod
    def of_all_ranks() -> list[States]:
        """Returns the current states, one entry per rank; a collective."""
        return gather_states(capture())

    def prepare(self, states: Sequence[States], rank: int, world_size: int) -> None:
        """Keeps this rank's state until `restore`.

        Raises:
            UserError: another number of processes wrote the checkpoint, so that their states cannot be restored.
        """
        if len(states) != world_size:
            raise UserError(
                f"the checkpoint was written by {len(states)} process(es) and cannot be continued by {world_size}: "
                f"resume with {len(states)}, or start a new run"
            )
        self._pending = states[rank]

    def restore(self) -> None:
        """Sets the states that `prepare` kept, once."""
        if self._pending is not None:
            apply(self._pending)
            self._pending = None


def capture() -> States:
    """Returns the states of this process as ints, strings, tuples and tensors."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (str(name), torch.from_numpy(np.asarray(keys).copy()), int(position), int(has_gauss), float(cached)),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def apply(state: States) -> None:
    """Sets the states that `capture` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy(), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
