"""Ranks that a launcher starts use one run, continue it after a restart, and end with their agent."""

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
from jsonargparse import Namespace
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from plcourse.cli.process_count import check_nodes, use_own_launcher
from plcourse.errors import UserError
from plcourse.processes import launcher
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


SRUN = {"SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
SRUN |= {"SLURM_STEP_ID": "0", "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost", "SLURM_NNODES": "1"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "GROUP_RANK": "0"}
BY_HAND = {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without variables of launchers."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_", "MASTER_")) or name in launcher._OF_A_RANK:
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "number"),
    [
        ({}, None),
        ({"RANK": "1"}, None),
        ({"LOCAL_RANK": "1"}, None),
        ({"SLURM_PROCID": "1"}, None),
        ({"RANK": "1", "WORLD_SIZE": "2"}, None),
        (SRUN, None),
        (TORCHRUN, 1),
        (SRUN | {"SLURM_PROCID": "1", "SLURM_LOCALID": "1"}, 1),
        (SRUN | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NAME": "interactive"}, None),
        (SRUN | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_JOB_NAME": "bash"}, None),
        (SRUN | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_ID": "4294967290"}, None),  # salloc's shell
        (BY_HAND, 1),
        (BY_HAND | {"RANK": "1"}, 1),
    ],
)
def test_a_process_is_a_rank_only_where_a_launcher_has_started_it(
    clean: pytest.MonkeyPatch, variables: dict[str, str], number: int | None
) -> None:
    for name, value in variables.items():
        clean.setenv(name, value)
    rank = launcher.find_rank()
    assert (None if rank is None else (rank.number, rank.world_size)) == (None if number is None else (number, 2))
    strays = [name for name in variables if name in launcher._OF_A_RANK and number is None]
    said = launcher.forget_strays()
    assert said == [f"{name}=1" for name in strays if variables[name] == "1"]
    kept = {name for name in variables if name in os.environ}
    assert kept == set(variables) - set(strays)
    assert LightningEnvironment().creates_processes_externally == ("LOCAL_RANK" in kept)


def test_settings_of_ranks_that_contradict_each_other_are_named(clean: pytest.MonkeyPatch) -> None:
    for name, value in {**BY_HAND, "NODE_RANK": "1"}.items():
        clean.setenv(name, value)
    with pytest.raises(UserError, match="NODE_RANK is set, but RANK is not"):
        launcher.find_rank()
    clean.setenv("RANK", "3")
    with pytest.raises(UserError, match=r"has started 2 process\(es\), but .* is 3"):
        check_nodes(Namespace(devices=3, num_nodes=1, accelerator="cpu"))
    for name in BY_HAND:
        clean.delenv(name)
    for name, value in {**SRUN, "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}.items():
        clean.setenv(name, value)
    clean.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(UserError, match="--ntasks-per-node=2"):
        launcher.find_rank()


@pytest.mark.parametrize(
    ("strategy", "replaced"),
    [
        ("ddp_spawn", "ddp"),
        ("ddp_fork_find_unused_parameters_true", "ddp_find_unused_parameters_true"),
        ("ddp_notebook", "ddp"),
        ("ddp", "ddp"),
        ("fsdp", "fsdp"),
    ],
)
def test_the_suite_starts_the_ranks_that_lightning_would_spawn(strategy: str, replaced: str) -> None:
    trainer = Namespace(strategy=strategy)
    use_own_launcher(trainer)
    assert trainer.strategy == replaced
    trainer = Namespace(strategy=Namespace(class_path="DDPStrategy", init_args=Namespace(start_method="spawn")))
    use_own_launcher(trainer)
    assert trainer.strategy.init_args.start_method == "popen"


def assert_one_run(runs: Path) -> None:
    """Two ranks have trained and tested one run."""
    run = only_run(runs)
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    report = json.loads((run / "eval" / "test.json").read_text())
    assert report["processes"] == 2
    assert report["coverage"] == {"expected": 359, "seen": 359, "twice": 0}


@pytest.mark.medium
@pytest.mark.parametrize("how", ["srun", pytest.param("by hand", marks=pytest.mark.slow)])
def test_ranks_that_are_started_one_by_one_use_one_run(how: str, tmp_path: Path, runs: Path) -> None:
    path = write_config(tmp_path / "job.yaml", digits_config(trainer__max_epochs=1, **TWO_PROCESSES))
    command = [sys.executable, "-m", "plcourse", "fit", "-c", str(path), "--then", "test"]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(listener.getsockname()[1])}
    ranks = []
    for number in ("0", "1"):
        variables = {"LOCAL_RANK": number, "WORLD_SIZE": "2"}
        if how == "srun":
            variables = {**SRUN, "SLURM_PROCID": number, "SLURM_LOCALID": number}
        every = {**environment(), **meeting, **variables}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        ranks.append(subprocess.Popen(command, **streams, cwd=tmp_path, env=every))
    said = [rank.communicate(timeout=200)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said
    assert_one_run(runs)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["again", "spawn", "thread"])
def test_ranks_that_are_started_within_a_process_use_one_run(how: str, tmp_path: Path, runs: Path) -> None:
    """By Lightning's launcher, which runs the command again, and by the suite's."""
    patient = {"process_group_backend": "gloo", "timeout": "0:02:00"}  # a second Python starts while the first waits
    strategy = "ddp_spawn" if how == "spawn" else {"class_path": "DDPStrategy", "init_args": patient}
    changes = {**TWO_PROCESSES, "trainer__max_epochs": 1, "trainer__strategy": strategy}
    path = write_config(tmp_path / "job.yaml", digits_config(**changes))
    command = [sys.executable, str(HELPERS / "launch_within.py"), how, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=tmp_path, env=environment())
    assert done.returncode == 0, done.stderr
    assert_one_run(runs)


@pytest.mark.medium
def test_ranks_of_torchrun_use_one_run(tmp_path: Path, runs: Path) -> None:
    path = write_config(tmp_path / "job.yaml", digits_config(trainer__max_epochs=1, **TWO_PROCESSES))
    command = [*LAUNCHER, "--nproc_per_node", "2", "-m", "plcourse", "fit", "-c", str(path), "--then", "test"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=tmp_path, env=environment())
    assert done.returncode == 0, done.stderr
    assert_one_run(runs)


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
