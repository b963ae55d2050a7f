"""Makes all ranks that torchrun starts use one run, and the same run after a restart.

torchrun's agents start the ranks of every node, watch them, and restart all of them after a failure (with
``--max-restarts``). This module adds:

- Rank 0 decides which run it is and tells the other ranks; a later attempt of the same job continues that run.
- Each attempt gets a new store, which rank 0 serves. torchrun's agents keep one store for all attempts, in which gloo
  and NCCL find the addresses of dead ranks: torch 2.15 then waits for them and fails.
- A rank dies with its agent. Otherwise a killed agent leaves its ranks behind.

Nothing in the environment tells the ranks which attempt they belong to, because each agent counts only its own
restarts. So each rank asks with a key that was never used before, and rank 0 answers that key.
"""

import json
import os
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from plcourse.errors import RunFailed
from plcourse.processes.forking import die_with

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]  (its public name)

PATIENCE = timedelta(minutes=5)  # for all ranks to arrive; imports from a cold file system are slow
_MINUTES = PATIENCE.total_seconds() / 60
_POLL = 0.02  # seconds between two polls of the store
_PREFIX = "plcourse"

_own_store: "TCPStore | None" = None  # served by rank 0 until its process ends


def is_rank() -> bool:
    """Whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def agree(decide: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Returns rank 0's decision on every rank; call it once, before anything else communicates.

    Afterwards torch's process group uses a store that belongs to this attempt alone.

    Args:
        decide: called on rank 0 with the ``run`` of an earlier attempt of this job, "" in the first one; returns plain
            types, with the run's folder as ``run``.

    Raises:
        RunFailed: not all ranks arrived within `PATIENCE`.
    """
    from torch.distributed import DistNetworkError, DistStoreError

    die_with(os.getppid())
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        agents = _agents_store(rank)
        answer = _lead(agents, world_size, decide) if rank == 0 else _follow(agents, rank)
    except (DistNetworkError, DistStoreError) as error:
        raise RunFailed(f"rank {rank} got no answer from rank 0 within {_MINUTES:g} minutes: {error}") from error
    os.environ["MASTER_PORT"] = str(answer["port"])
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # the store is served already, for rank 0 too
    return answer["decision"]


def _agents_store(rank: int) -> "TCPStore":
    """Returns the store of torchrun's agents, which outlives an attempt, or else a store that rank 0 serves."""
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=rank == 0 and not served,
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
