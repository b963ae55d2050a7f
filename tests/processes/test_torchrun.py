"""Ranks that torchrun starts use one run, continue it after a restart, and end with their agent."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support import (
    HELPERS,
    TWO_PROCESSES,
    Command,
    assert_same_end,
    digits_config,
    failing,
    processes_with,
    write_config,
)

LAUNCHER = [sys.executable, "-m", "torch.distributed.run"]
NO_ORPHAN = 20  # seconds after the death of one agent in which the other and all ranks end; about 2 on an idle machine
Agents = Callable[..., list[subprocess.Popen[str]]]
UNSHARED = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"']


def environment() -> dict[str, str]:
    return {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HELPERS)}


@pytest.fixture
def agents(tmp_path: Path, runs: Path) -> Iterator[Agents]:
    """Starts two agents of torchrun, one process each, that find each other on this machine."""
    started: list[subprocess.Popen[str]] = []

    def start(config: Path, *flags: str, restarts: int = 0, wrappers: tuple[list[str], ...] = ([], [])) -> Any:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        meeting = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"localhost:{port}", "--max-restarts", str(restarts)]
        nodes = ["--trainer.num_nodes", "2", "--trainer.devices", "1", "--trust", "faulty"]
        for wrapper in wrappers:
            command = [*wrapper, *LAUNCHER, "--nnodes", "2", *meeting, "-m", "plcourse", "fit", "-c", str(config)]
            with (tmp_path / f"agent{len(started)}.log").open("w") as log:
                streams = {"stdout": log, "stderr": subprocess.STDOUT, "text": True}
                started.append(subprocess.Popen([*command, *nodes, *flags], **streams, cwd=tmp_path, env=environment()))
        return started

    yield start
    for agent in started:
        agent.kill()
        agent.wait()
    for left in processes_with(str(tmp_path)):
        os.kill(left, signal.SIGKILL)


def succeed(started: list[subprocess.Popen[str]], tmp_path: Path) -> str:
    statuses = [agent.wait(timeout=240) for agent in started]
    said = "\n".join((tmp_path / f"agent{i}.log").read_text() for i in range(len(started)))
    assert statuses == [0] * len(started), said
    return said


def only_run(folder: Path) -> Path:
    (record,) = folder.rglob("run.json")
    return record.parent


@pytest.mark.medium
def test_ranks_of_torchrun_use_one_run(tmp_path: Path, runs: Path) -> None:
    path = write_config(tmp_path / "job.yaml", digits_config(trainer__max_epochs=1, **TWO_PROCESSES))
    command = [*LAUNCHER, "--nproc_per_node", "2", "-m", "plcourse", "fit", "-c", str(path), "--then", "test"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=tmp_path, env=environment())
    assert done.returncode == 0, done.stderr
    run = only_run(runs)
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    report = json.loads((run / "eval" / "test.json").read_text())
    assert report["processes"] == 2
    assert report["coverage"] == {"expected": 359, "seen": 359, "twice": 0}


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_two_nodes_started_again_end_like_two_processes_that_were_not_killed(
    rank: int, forked: Command, agents: Agents, tmp_path: Path, runs: Path
) -> None:
    """A rank is killed in mid-epoch; torchrun starts all of them again, and the run continues in its folder."""
    forked("fit", "-c", write_config(tmp_path / "reference.yaml", digits_config(**TWO_PROCESSES)))
    killed = tmp_path / "killed_already"
    config = failing(digits_config(**TWO_PROCESSES), step=31, how="kill", rank=rank, once=str(killed))
    said = succeed(agents(write_config(tmp_path / "job.yaml", config), restarts=1), tmp_path)
    assert killed.exists()
    assert said.count("started again by torchrun: continuing from") == 1
    run = only_run(runs / "own" / "job")
    assert_same_end(run, runs / "own" / "reference" / "latest")
    assert json.loads((run / "run.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_a_rank_killed_before_the_first_checkpoint_starts_over_in_the_same_run(
    forked: Command, agents: Agents, tmp_path: Path, runs: Path
) -> None:
    changes = {**TWO_PROCESSES, "trainer__max_epochs": 1}
    forked("fit", "-c", write_config(tmp_path / "reference.yaml", digits_config(**changes)))
    config = failing(digits_config(**changes), step=3, how="kill", once=str(tmp_path / "killed_already"))
    said = succeed(agents(write_config(tmp_path / "job.yaml", config), restarts=1), tmp_path)
    assert "continuing from the beginning" in said
    assert_same_end(only_run(runs / "own" / "job"), runs / "own" / "reference" / "latest")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_agent_takes_the_other_and_every_rank_with_it(
    victim: int, agents: Agents, tmp_path: Path, runs: Path
) -> None:
    path = write_config(tmp_path / "job.yaml", digits_config(**{**TWO_PROCESSES, "trainer__max_epochs": 5000}))
    started = agents(path)
    deadline = time.monotonic() + 120
    while not list(runs.rglob("last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(processes_with(str(tmp_path))) == 4, "two agents and two ranks"
    started[victim].kill()
    assert started[1 - victim].wait(timeout=NO_ORPHAN) not in (0, None)
    started[victim].wait()
    deadline = time.monotonic() + 5
    while processes_with(str(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_with(str(tmp_path)) == []
    assert (only_run(runs) / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.slow
def test_nodes_with_file_systems_of_their_own(forked: Command, agents: Agents, tmp_path: Path, runs: Path) -> None:
    """The second node does not see the first one's runs: it gets the checkpoint to resume from and to test from it."""
    if shutil.which("unshare") is None or subprocess.run([*UNSHARED, str(tmp_path), "true"], check=False).returncode:
        pytest.skip("needs a mount namespace to hide a folder in")
    forked("fit", "-c", write_config(tmp_path / "reference.yaml", digits_config(**TWO_PROCESSES)), "--then", "test")
    elsewhere = tmp_path.with_name(f"{tmp_path.name}_kept")
    elsewhere.mkdir()
    config = failing(digits_config(**TWO_PROCESSES), step=31, how="kill", rank=1, once=str(elsewhere / "killed"))
    path = write_config(elsewhere / "job.yaml", config)
    runs.mkdir(exist_ok=True)
    started = agents(path, "--then", "test", restarts=1, wrappers=([], [*UNSHARED, str(runs)]))
    said = succeed(started, tmp_path)
    assert (elsewhere / "killed").exists(), said
    run, reference = only_run(runs / "own" / "job"), runs / "own" / "reference" / "latest"
    assert_same_end(run, reference)
    scores, expected = (json.loads((folder / "eval" / "test.json").read_text()) for folder in (run, reference))
    assert scores["metrics"] == expected["metrics"]
    assert scores["coverage"] == expected["coverage"]


def test_nodes_that_nobody_started_are_not_waited_for(forked: Command, tmp_path: Path, runs: Path) -> None:
    done = forked("fit", "-c", "ddp/two_nodes", status=2)
    assert "trainer.num_nodes is 2: start it on each node with torchrun" in done.stderr
    assert not runs.exists()
