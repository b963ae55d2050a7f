"""Evaluation is exact: every sample once, on any number of ranks, with every hook on every rank."""

import json
from pathlib import Path
from typing import Any

import pytest

from plcourse.runs.run import Run
from plcourse.runs.variants import evaluations
from support import TWO_PROCESSES, Command, digits_config, write_config


def in_double_precision(**changes: Any) -> dict[str, Any]:
    return digits_config(trainer__precision="64-true", trainer__max_epochs=1, **changes)


def scores(run: Path, part: str = "test") -> dict[str, Any]:
    return json.loads((run / "eval" / f"{part}.json").read_text())


@pytest.mark.parametrize("n", [1, 2, 65])
def test_two_processes_score_like_one(forked: Command, tmp_path: Path, runs: Path, n: int) -> None:
    one = write_config(tmp_path / "one.yaml", in_double_precision(data__init_args__test_size=n))
    forked("fit", "-c", one, "--then", "test")
    first = scores(runs / "own" / "one" / "latest")
    two = write_config(tmp_path / "two.yaml", in_double_precision(data__init_args__test_size=n, **TWO_PROCESSES))
    checkpoint = (runs / "own" / "one" / "latest" / "checkpoints" / "best.ckpt").resolve()
    printed = forked("test", "-c", two, "--ckpt_path", checkpoint).stdout
    second = evaluations(Run(runs / "own" / "one" / "latest"))[-1].content  # of other batches, and so with a name
    assert second["processes"] == 2
    assert f"{n} of {n} seen, 0 twice" in printed
    assert first["coverage"] == second["coverage"] == {"expected": n, "seen": n, "twice": 0}
    assert first["metrics"].keys() == second["metrics"].keys()
    for name, value in first["metrics"].items():
        assert second["metrics"][name] == pytest.approx(value, rel=1e-12 if name == "test/loss" else 0), name


@pytest.mark.parametrize("n", [1, 5])
def test_a_rank_without_samples_takes_part_in_the_validation_inside_fit(
    forked: Command, tmp_path: Path, runs: Path, n: int
) -> None:
    network = {"class_path": "faulty.UnevenNorm"}  # DDP would broadcast its buffers, batch by batch
    changes = {"data__init_args__val_size": n, "model__init_args__network": network, "data__init_args__batch_size": 2}
    changes = {**TWO_PROCESSES, **changes, "trainer__limit_train_batches": 4}
    path = write_config(tmp_path / "few.yaml", digits_config(**changes))
    forked("fit", "-c", path, "--trust", "faulty", "--then", "validate,test")
    report = scores(runs / "own" / "few" / "latest", "val")
    assert report["coverage"] == {"expected": n, "seen": n, "twice": 0}
    assert scores(runs / "own" / "few" / "latest")["coverage"]["seen"] == 359
