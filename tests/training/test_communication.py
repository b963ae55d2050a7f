"""The time that a step waits for other ranks is measured where it is spent, without changing a gradient."""

import json
import os
import socket
import subprocess
import sys
from typing import Any

import pytest
from torch import nn

from plcourse.training.communication import CommunicationTimer
from support import HELPERS

RANKS = HELPERS / "communication_ranks.py"
PAUSE = 0.2  # seconds that rank 1 is late by, once in the four steps that are seen


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, str(RANKS), str(rank), port] for rank in range(2)]
    started = [subprocess.Popen(each, stdout=subprocess.PIPE, text=True, env=environment) for each in commands]
    outputs = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    return [json.loads(output) for output in outputs]


@pytest.mark.parametrize("case", ["plain", "static graph", "one bucket", "fp16"])
def test_the_wait_for_a_late_rank_is_exposed_communication(ranks: list[dict[str, Any]], case: str) -> None:
    punctual, late = ranks[0][case], ranks[1][case]
    assert punctual["steps"] == late["steps"] == 4  # the times of the fifth are complete when a sixth begins
    for seen in (punctual, late):
        assert 0 <= seen["exposed"] <= seen["total"]
        assert seen["again"], "take starts anew"
    assert punctual["exposed"] > 0.8 * PAUSE / 4
    assert punctual["exposed"] - late["exposed"] > 0.5 * PAUSE / 4


def test_passes_without_communication_are_no_steps(ranks: list[dict[str, Any]]) -> None:
    assert [rank["accumulated"]["steps"] for rank in ranks] == [2, 2]


@pytest.mark.parametrize("case", ["same gradients", "same gradients with fp16"])
def test_timing_changes_no_bit_of_a_gradient(ranks: list[dict[str, Any]], case: str) -> None:
    assert all(rank[case] for rank in ranks)


def test_a_module_that_is_not_distributed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"module is a Linear; only DistributedDataParallel"):
        CommunicationTimer(nn.Linear(2, 2))
