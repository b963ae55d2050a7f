"""`plcourse benchmark scaling` with real ranks and a few steps: what it writes, and that nothing is left of it."""

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from forking import Forker
from plcourse.processes.forking import can_fork
from started import Started
from support import Command, digits_config, failing, write_config

FEW = ["--pairs", "2", "--steps", "4", "--warmup", "5", "--world_sizes", "1,2"]
NETWORK = {"class_path": "MLP", "init_args": {"in_features": 64, "hidden": [128]}}
TWO_CORES = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1

pytestmark = pytest.mark.skipif(not can_fork() or not TWO_CORES, reason="takes a fork and two cores")


def mlp_config(**changes: Any) -> dict[str, Any]:
    return digits_config(model__init_args__network=NETWORK, trainer__log_every_n_steps=1, **changes)


def losses(folder: Path) -> dict[int, float]:
    with (folder / "metrics.csv").open() as file:
        return {int(row["step"]): float(row["value"]) for row in csv.DictReader(file) if row["metric"] == "train/loss"}


@pytest.fixture(scope="module")
def measured(forker: Forker, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder and the output of one benchmark."""
    folder = tmp_path_factory.mktemp("scaling")
    config = write_config(folder / "mlp.yaml", mlp_config())
    words = ["benchmark", "scaling", "-c", config, *FEW, "--json", "numbers.json"]
    done = forker.run(folder, *words, PLCOURSE_RUNS=str(folder / "runs"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return folder, done.stdout


def report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "runs" / "benchmarks" / "scaling" / "latest" / "scaling.json").read_text())


def test_every_job_is_measured_in_every_round(measured: tuple[Path, str]) -> None:
    folder, printed = measured
    report = report_of(folder)
    assert report["status"] == "finished"
    names = [row["job"] for row in report["rows"]]
    assert names == ["1 process, 1 thread", "1 process, 2 threads", "2 ranks, 1 thread each"]
    assert len(report["rounds"]) == report["pairs"] == 2
    for each in report["rounds"]:
        assert sorted(each) == sorted([*names, "2 ranks, 1 thread each, gradients not exchanged"])
        assert min(each.values()) > 0
    assert "\nno verdict: " in printed  # two rounds give no interval, and a busy machine no answer
    assert 0 <= report["used_by_others"] <= 1
    assert all(name in printed for name in names)
    assert json.loads((folder / "numbers.json").read_text()) == report
    assert (folder / "runs/benchmarks/scaling/latest/scaling.png").read_bytes().startswith(b"\x89PNG")
    assert min(row["memory_bytes_per_rank"] for row in report["rows"]) > 50 << 20
    clock = report["shares"][0]["ddp_clock"]
    assert 0 <= clock["exposed"] <= clock["communication"]


def test_counted_operations_equal_those_computed_by_hand(measured: tuple[Path, str]) -> None:
    model = report_of(measured[0])["model"]
    assert model["parameters"] == 64 * 128 + 128 + 128 * 10 + 10
    assert model["gradient_bytes"] == 4 * model["parameters"]
    # a product each for the output, the weights' gradient, and, but for the first layer, the input's
    assert model["flops_per_step"] == 64 * 2 * (2 * 64 * 128 + 3 * 128 * 10)


def test_all_jobs_train_the_same_batches(measured: tuple[Path, str]) -> None:
    """Until the first stretch without exchange, after which the ranks' weights part."""
    jobs = measured[0] / "runs" / "benchmarks" / "scaling" / "latest" / "jobs"
    one, two, ranks = (losses(jobs / name) for name in ("1x1", "1x2", "2x1"))
    together = range(5 + 3)
    assert [two[step] for step in together] == pytest.approx([one[step] for step in together], rel=1e-4)
    assert [ranks[step] for step in together] == pytest.approx([one[step] for step in together], rel=1e-4)
    assert len(one) > 2 * 4 + 5


def test_a_benchmark_is_not_listed_as_a_run(measured: tuple[Path, str], forked: Command) -> None:
    assert "No runs" in forked("ls", "runs", "--runs_root", measured[0] / "runs").stdout


def test_one_rank_alone(forked: Command, tmp_path: Path, runs: Path) -> None:
    config = write_config(tmp_path / "mlp.yaml", mlp_config())
    done = forked("benchmark", "scaling", "-c", config, *FEW, "--world_sizes", "1", "--json", "-")
    report = json.loads(done.stdout)
    assert [row["job"] for row in report["rows"]] == ["1 process, 1 thread"]
    assert report["shares"] == []


def test_a_dead_rank_ends_the_benchmark_with_the_cause(forked: Command, tmp_path: Path, runs: Path) -> None:
    config = write_config(tmp_path / "mlp.yaml", failing(mlp_config(), step=6, how="kill", rank=1))
    done = forked("benchmark", "scaling", "-c", config, *FEW, "--trust", "faulty", status=1)
    assert "2 ranks, 1 thread each: rank 1 was killed by SIGKILL" in done.stderr
    assert done.stderr.count("\n") == 1
    assert report_of(tmp_path)["status"] == "failed"


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_signal_leaves_nothing_running(tmp_path: Path, runs: Path, signum: int, status: int) -> None:
    config = write_config(tmp_path / "mlp.yaml", mlp_config())
    started = Started("benchmark", "scaling", "-c", config, "--pairs", 10000, *FEW[2:])
    table = runs / "benchmarks" / "scaling" / "latest" / "jobs" / "2x1" / "metrics.csv"
    started.wait_for(table.is_file)
    assert started.end(signum)[0] == status


def test_a_root_that_is_not_a_folder(forked: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = forked("benchmark", "scaling", "-c", "ddp/mlp", "--runs_root", "file", status=2)
    assert "cannot make a folder in 'file/benchmarks/scaling'" in done.stderr
    assert "--runs_root names another root" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], "needs the name of a benchmark: scaling"),
        (["scalin"], "did you mean 'scaling'?"),
        (["scaling", "-c", "ddp/mpl"], "did you mean 'ddp/mlp'?"),
        (["scaling", "-c", "ddp/mlp", "--trainer.max_step", "3"], "did you mean '--trainer.max_steps'?"),
        (["scaling", "-c", "ddp/mlp", "--data.init_args.batch_size", "63"], "a multiple of 2"),
    ],
)
def test_mistakes_get_one_line(forked: Command, runs: Path, arguments: list[str], wanted: str) -> None:
    done = forked("benchmark", *arguments, status=2)
    assert wanted in done.stderr
    assert done.stderr.count("\n") == 1
    assert not runs.exists()
