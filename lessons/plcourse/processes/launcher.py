"""Finds out which program started this process as one of several ranks, and makes all of its ranks use one run.

torchrun, SLURM's srun and LSF's jsrun start ranks; so does Lightning where the suite cannot fork, and a person who sets
the variables by hand. A variable such as ``RANK`` alone proves nothing: a shell may still have it from another program.
Lightning's detection decides, and `forget_strays` removes what it would believe without proof.

torchrun's agents start the ranks of every node, watch them, and restart all of them after a failure (with
``--max-restarts``). This module adds, for every launcher:

- Rank 0 decides which run it is and tells the other ranks; a later attempt of the same job continues that run.
- Each attempt gets a new store, which rank 0 serves. torchrun's agents keep one store for all attempts, in which gloo
  and NCCL find the addresses of dead ranks: torch 2.15 then waits for them and fails.
- A rank of torchrun dies with its agent. Otherwise a killed agent leaves its ranks behind.

Nothing in the environment tells the ranks which attempt they belong to, because each agent counts only its own
restarts. So each rank asks with a key that was never used before, and rank 0 answers that key.
"""

import contextlib
import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from plcourse.errors import RunFailed, UserError, first_line
from plcourse.processes.forking import die_with

if TYPE_CHECKING:
    from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]  (its public name)

PATIENCE = timedelta(minutes=5)  # for all ranks to arrive; imports from a cold file system are slow
_MINUTES = PATIENCE.total_seconds() / 60
_POLL = 0.02  # seconds between two polls of the store
_PREFIX = "plcourse"
_DECISION = "PLCOURSE_DECISION"  # what the process that Lightning's launcher copies has decided, for the copies
_OF_SRUN = ("SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
_BY_HAND = ("LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Variables by which Lightning takes a process for a rank. The first four also tell it which messages to print.
_OF_A_RANK = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK", "SLURM_NTASKS", "GROUP_RANK", "NODE_RANK")
_NO_TASKS = 2**32 - 16  # from here on, numbers of SLURM's steps mean the batch script or the shell of salloc

_own_store: "TCPStore | None" = None  # served by rank 0 until its process ends


class Rank(NamedTuple):
    """This process as one of the ranks that a launcher started."""

    number: int
    world_size: int
    environment: "ClusterEnvironment"


def find_rank() -> Rank | None:
    """Returns which rank this process is, None if no launcher has started it; imports torch only if one may have.

    Raises:
        UserError: the launcher's settings contradict each other.
    """
    if not any(name in os.environ for name in (*_OF_A_RANK, "TORCHELASTIC_RUN_ID", "LSB_DJOB_RANKFILE")):
        return None
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment
    from lightning_fabric.plugins.environments.lsf import LSFEnvironment
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if TorchElasticEnvironment.detect():
        environment = TorchElasticEnvironment()
    elif _all_set(_OF_SRUN) and SLURMEnvironment.detect() and _is_in_slurm_step():
        try:
            environment = SLURMEnvironment()
        except RuntimeError as error:
            raise UserError(first_line(error)) from error
    elif LSFEnvironment.detect():
        environment = LSFEnvironment()
    elif _all_set(_BY_HAND):
        environment = LightningEnvironment()
        if environment.node_rank() and "RANK" not in os.environ:
            raise UserError("NODE_RANK is set, but RANK is not: set RANK to the number of this process among all")
        number = int(os.environ.get("RANK", environment.local_rank()))
        return Rank(number, int(os.environ["WORLD_SIZE"]), environment)
    else:
        return None
    return Rank(environment.global_rank(), environment.world_size(), environment)


def is_rank() -> bool:
    """Whether a launcher has started this process as one of several ranks."""
    return find_rank() is not None


def forget_strays() -> list[str]:
    """Removes the variables of ranks from the environment of a process that no launcher has started.

    Returns:
        Those that would have made it another rank than the first, such as ``RANK=1``.
    """
    if is_rank():
        return []
    found = [f"{name}={os.environ.pop(name)}" for name in _OF_A_RANK if name in os.environ]
    if rank_zero := sys.modules.get("lightning_utilities.core.rank_zero"):
        rank_zero.rank_zero_only.rank = 0  # an earlier import has read them
    return [each for each in found if not each.endswith("=0") and not each.startswith("SLURM_NTASKS")]


def agree(decide: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Returns rank 0's decision on every rank; call it once, before anything else communicates.

    Afterwards torch's process group uses a store that belongs to this attempt alone.

    Args:
        decide: called on rank 0 with the ``run`` of an earlier attempt of this job, "" in the first one; returns plain
            types, with the run's folder as ``run``.

    Raises:
        RunFailed: not all ranks arrived within `PATIENCE`.
    """
    rank = find_rank()
    if rank is None:
        return decide("")
    if _DECISION in os.environ:
        return json.loads(os.environ[_DECISION])
    from torch.distributed import DistNetworkError, DistStoreError

    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with(os.getppid())
    try:
        agents = _first_store(rank)
        answer = _lead(agents, rank.world_size, decide) if rank.number == 0 else _follow(agents, rank.number)
    except (DistNetworkError, DistStoreError) as error:
        why = f"rank {rank.number} got no answer from rank 0 within {_MINUTES:g} minutes: {first_line(error)}"
        raise RunFailed(why) from error
    os.environ["MASTER_PORT"] = str(answer["port"])
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # the store is served already, for rank 0 too
    return answer["decision"]


@contextlib.contextmanager
def shared(decision: dict[str, Any]) -> Iterator[None]:
    """Gives a decision to the ranks that Lightning starts in the block by running this command again."""
    if is_rank():
        yield
        return
    before = {name: os.environ.get(name) for name in (_DECISION, *_BY_HAND, "NODE_RANK")}
    os.environ[_DECISION] = json.dumps(decision)
    try:
        yield
    finally:  # Lightning's launcher sets the others, and would later believe them
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _all_set(names: Sequence[str]) -> bool:
    return all(name in os.environ for name in names)


def _is_in_slurm_step() -> bool:
    """Whether srun has started this process, and not the shell of salloc or the script of sbatch around it."""
    step = os.environ.get("SLURM_STEP_ID", "")
    return not step.isdecimal() or int(step) < _NO_TASKS


def _first_store(rank: Rank) -> "TCPStore":
    """Returns the store of torchrun's agents, which outlives an attempt, or else a store that rank 0 serves."""
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return TCPStore(
        rank.environment.main_address,
        rank.environment.main_port,
        is_master=rank.number == 0 and not served,
        wait_for_workers=False,
        timeout=PATIENCE,
    )


def _lead(agents: "TCPStore", world_size: int, decide: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    global _own_store
    known = f"{_PREFIX}/run"
    earlier = agents.get(known).decode() if agents.check([known]) else ""
    decision = decide(earlier)
    agents.set(known, decision["run"])
    _own_store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    answer = {"decision": decision, "port": _own_store.port}
    text, attempt = json.dumps(answer), uuid.uuid4().hex
    waiting, answered = set(range(1, world_size)), set()
    deadline = time.monotonic() + PATIENCE.total_seconds()
    while waiting:
        for rank in sorted(waiting):
            asks = f"{_PREFIX}/asks/{rank}"
            key = agents.get(asks).decode() if agents.check([asks]) else ""
            if key and key not in answered:  # it may be left from an earlier attempt
                agents.set(f"{_PREFIX}/answer/{key}", json.dumps([attempt, text]))
                answered.add(key)
            if agents.check([f"{_PREFIX}/heard/{attempt}/{rank}"]):
                waiting.discard(rank)
        if time.monotonic() > deadline:
            names = ", ".join(map(str, sorted(waiting)))
            raise RunFailed(f"of {world_size} ranks these did not arrive within {_MINUTES:g} minutes: {names}")
        time.sleep(_POLL if waiting else 0)
    return answer


def _follow(agents: "TCPStore", rank: int) -> dict[str, Any]:
    key = uuid.uuid4().hex
    agents.set(f"{_PREFIX}/asks/{rank}", key)
    attempt, text = json.loads(agents.get(f"{_PREFIX}/answer/{key}"))
    agents.set(f"{_PREFIX}/heard/{attempt}/{rank}", "")
    return json.loads(text)
