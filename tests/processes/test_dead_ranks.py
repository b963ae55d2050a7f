"""A rank that dies or stalls ends the whole job in time; the error names the cause, and no process is left."""

import json
import re
import time
from pathlib import Path

import pytest

from support import TWO_PROCESSES, Command, digits_config, failing, processes_in, write_config

TIMEOUT = 20  # of the collectives, in TWO_PROCESSES


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ("raise", r"rank {rank} raised ZeroDivisionError at step 10: \S+faulty\.py:\d+: planted"),
        ("kill", "rank {rank} was killed by SIGKILL"),
        ("exit0", "rank {rank} exited with status 0"),
        pytest.param("stall", "rank {rank} has stalled", marks=pytest.mark.slow),
        pytest.param("stop", "rank {rank} has stalled", marks=pytest.mark.slow),
    ],
)
def test_a_dead_rank_ends_the_job(forked: Command, tmp_path: Path, runs: Path, how: str, rank: int, cause: str) -> None:
    path = write_config(tmp_path / "job.yaml", failing(digits_config(**TWO_PROCESSES), step=11, how=how, rank=rank))
    start = time.monotonic()
    done = forked("fit", "-c", path, "--trust", "faulty", status=1)
    took = time.monotonic() - start
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("plcourse: error:"))
    record = json.loads((runs / "own" / "job" / "latest" / "run.json").read_text())
    assert record["status"] == "failed"
    for said in (line, record["error"]):
        assert re.search(cause.format(rank=rank), said)
    assert processes_in(tmp_path) == []
    assert took < TIMEOUT + 5 + 40, "start-up and training of 11 steps take seconds, the rest is the timeout"
