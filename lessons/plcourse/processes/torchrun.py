"""Ranks that torchrun has started: one run for all of them, and the same one after a restart.

torchrun's agents start a rank per process on every node, watch them, and after a failure start all of them again (with
``--max-restarts``). What this module adds:

- Rank 0 decides which run it is, and the other ranks hear it; a later attempt of the same job learns of the earlier
  one, whose run it continues.
- Each attempt gets a store of its own, which rank 0 serves. torchrun's agents keep one store for all attempts, in which
  gloo and NCCL find the addresses of ranks that are dead: torch 2.15 then waits for them and fails.
- A rank dies with its agent. Otherwise a killed agent leaves its ranks behind.

Ranks of one attempt cannot tell it from the last by anything in their environment: each agent counts only its own
restarts. So each rank asks with a word that nobody used before, and rank 0 answers it.
"""

import json
import os
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from plcourse.errors import RunFailed
from plcourse.processes.launch import die_with

PATIENCE = timedelta(minutes=5)  # for all ranks to arrive; imports on a cold file system take their time
_POLL = 0.02  # seconds between two looks at the store
_PREFIX = "plcourse"

_own_store: Any = None  # served by rank 0 until its process ends


def is_rank() -> bool:
    """Whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def agree(decide: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """What rank 0 decides, on every rank; call it once, before anything else communicates.

    Afterwards torch's process group will use a store that belongs to this attempt alone.

    Args:
        decide: called on rank 0 with the ``run`` that an earlier attempt of this job decided on, "" in the first one;
            returns plain types, with the run's folder as ``run``.

    Raises:
        RunFailed: not all ranks came within `PATIENCE`.
    """
    from torch.distributed import DistNetworkError, DistStoreError

    die_with(os.getppid())
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        agents = _agents_store(rank)
        answer = _lead(agents, world_size, decide) if rank == 0 else _follow(agents, rank)
    except (DistNetworkError, DistStoreError) as error:
        minutes = PATIENCE.total_seconds() / 60
        raise RunFailed(f"rank {rank} found no answer from rank 0 within {minutes:g} minutes: {error}") from error
    os.environ["MASTER_PORT"] = str(answer["port"])
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "True"  # the store is served already, for rank 0 too
    return answer["decision"]


def _agents_store(rank: int) -> Any:
    """The store of torchrun's agents, which outlives an attempt; without one, a store that rank 0 serves."""
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]  (its public name)

    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=rank == 0 and not served,
        wait_for_workers=False,
        timeout=PATIENCE,
    )


def _lead(agents: Any, world_size: int, decide: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
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
            word = agents.get(asks).decode() if agents.check([asks]) else ""
            if word and word not in answered:  # perhaps one that a rank of an earlier attempt left
                agents.set(f"{_PREFIX}/answer/{word}", json.dumps([attempt, text]))
                answered.add(word)
            if agents.check([f"{_PREFIX}/heard/{attempt}/{rank}"]):
                waiting.discard(rank)
        if time.monotonic() > deadline:
            names = ", ".join(map(str, sorted(waiting)))
            minutes = PATIENCE.total_seconds() / 60
            raise RunFailed(f"of {world_size} ranks these did not come within {minutes:g} minutes: {names}")
        time.sleep(_POLL if waiting else 0)
    return answer


def _follow(agents: Any, rank: int) -> dict[str, Any]:
    word = uuid.uuid4().hex
    agents.set(f"{_PREFIX}/asks/{rank}", word)
    attempt, text = json.loads(agents.get(f"{_PREFIX}/answer/{word}"))
    agents.set(f"{_PREFIX}/heard/{attempt}/{rank}", "")
    return json.loads(text)
