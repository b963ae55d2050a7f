"""The monitor: what it says of samples, waiting and coverage is what happened."""

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from plcourse import Run
from support import TWO_PROCESSES, Command, digits_config, failing, write_config

WINDOW = 5  # steps
SLOW = 0.15  # seconds, long beside a step even where other processes share the cores


@pytest.fixture
def fit(forked: Command, tmp_path: Path, runs: Path) -> Any:
    def run(name: str, *callbacks: dict[str, Any], **changes: Any) -> dict[str, list[float]]:
        config = digits_config(trainer__log_every_n_steps=WINDOW, **changes)
        config["trainer"]["callbacks"] += [
            {"class_path": "ThroughputMonitor", "init_args": {"communication_every_n_steps": 3}},
            *callbacks,
        ]
        forked("fit", "-c", write_config(tmp_path / f"{name}.yaml", config), "--trust", "faulty")
        return columns(runs / "own" / name / "latest")

    return run


def columns(folder: Path) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for row in Run.load(folder).metrics:
        found.setdefault(row["metric"], []).append(row["value"])
    return found


def fractions(found: dict[str, list[float]]) -> Iterator[float]:
    for name in ("train/data_wait", "train/communication_wait", "train/communication"):
        yield from found[name]


def test_two_processes_report_for_both(fit: Any) -> None:
    found = fit("two", trainer__max_epochs=2, **TWO_PROCESSES)
    windows = 2 * 20 // WINDOW  # 1,258 samples in batches of 64: 20 steps an epoch
    for name in ("samples_per_second", "data_wait", "peak_memory_mib", "communication_wait"):
        assert len(found[f"train/{name}"]) == windows
    assert all(0 <= fraction <= 1 for fraction in fractions(found))
    assert all(
        wait <= whole
        for wait, whole in zip(*(found[f"train/communication{end}"] for end in ("_wait", "")), strict=True)
    )
    assert all(100 < memory < 10_000 for memory in found["train/peak_memory_mib"])
    assert found["train/samples_seen"] == [1258, 1258]
    assert found["train/samples_twice"] == [0, 0]
    assert found["train/samples_rank_0"] == [629, 629]
    assert found["train/samples_rank_1"] == [629, 629]


def test_a_slow_loader_shows_as_data_wait_and_a_slow_rank_as_communication(fit: Any) -> None:
    """A loader that is slow on both ranks; then a rank that is slow in each step."""
    loader = {"class_path": "faulty.SlowBatches", "init_args": {"seconds": SLOW, "where": "loader"}}
    rank = {"class_path": "faulty.SlowBatches", "init_args": {"seconds": SLOW, "where": "step", "rank": 1}}
    short = {**TWO_PROCESSES, "trainer__max_epochs": 1}
    by_loader, by_rank = fit("loader", loader, **short), fit("rank", rank, **short)
    assert median(by_loader["train/data_wait"]) > 0.2
    assert median(by_rank["train/data_wait"]) < median(by_loader["train/data_wait"]) / 2
    # rank 0 waits, rank 1 does not: the mean is half of it
    assert median(by_rank["train/communication_wait"]) > 0.1
    for found in (by_loader, by_rank):
        assert median(found["train/samples_per_second"]) < 64 / SLOW


def test_one_process_has_no_communication(fit: Any) -> None:
    found = fit("one", trainer__max_epochs=1)
    assert "train/communication" not in found
    assert found["train/samples_rank_0"] == found["train/samples_seen"] == [1258]
    assert "train/samples_rank_1" not in found


def test_an_epoch_resumed_in_its_middle_claims_no_coverage(forked: Command, tmp_path: Path, runs: Path) -> None:
    config = failing(digits_config(trainer__max_epochs=2), step=11, how="kill_job", once=str(tmp_path / "killed"))
    config["trainer"]["callbacks"].append({"class_path": "ThroughputMonitor"})
    forked("fit", "-c", write_config(tmp_path / "job.yaml", config), "--trust", "faulty", status=-9)
    latest = runs / "own" / "job" / "latest"
    forked("fit", "--run", latest, "--ckpt_path", "last", "--trust", "faulty")
    assert columns(latest)["train/samples_seen"] == [1258], "of the second epoch alone"


def test_the_flag_that_the_guide_shows(forked: Command, runs: Path) -> None:
    limits = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "10", "--trainer.limit_val_batches", "1"]
    forked("fit", "-c", "ddp/one_process", "--trainer.callbacks+=ThroughputMonitor", *limits)
    assert len(columns(runs / "ddp" / "one_process" / "latest")["train/samples_per_second"]) == 1
