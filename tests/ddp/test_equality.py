"""Two processes with half the batch take the steps of one process with the whole batch: losses, gradients, weights."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from plcourse import Run
from plcourse.runs.record import MetricRow
from support import TWO_PROCESSES, Command, digits_config, write_config

STEPS = 50  # four epochs of 1,257 samples in batches of 108, the last of 69, and two more steps
BATCH = 108
TOLERANCE = {"64-true": 1e-10, "32-true": 1e-4}  # relative
# The lesson's own network in double precision, where no ReLU's input is zero to rounding; in single precision one is.
NETWORKS = {
    "64-true": {"class_path": "ResNet", "init_args": {"widths": [8, 16]}},
    "32-true": {"class_path": "faulty.SmoothNet"},
}


@dataclass
class Trained:
    """What a fit left behind."""

    losses: dict[int, float]
    scores: list[MetricRow]
    gradients: list[dict[str, Tensor]]
    weights: dict[str, Tensor]


@pytest.fixture
def fit(forked: Command, tmp_path: Path, runs: Path) -> Any:
    """Fits a network without dropout for `STEPS` steps."""

    def run(name: str, precision: str = "64-true", **changes: Any) -> Trained:
        file = tmp_path / f"{name}.pt"
        settings = {
            "trainer__precision": precision,
            "trainer__max_epochs": 5,
            "trainer__max_steps": STEPS,
            "trainer__log_every_n_steps": 1,
            "model__init_args__network": NETWORKS[precision],
            "data__init_args__val_size": 181,  # leaves an odd number, which two processes cannot divide evenly
        }
        config = digits_config(**{**settings, **changes})
        config["trainer"]["callbacks"].append({"class_path": "faulty.KeepGradients", "init_args": {"path": str(file)}})
        forked("fit", "-c", write_config(tmp_path / f"{name}.yaml", config), "--trust", "faulty")
        found = Run.load(runs / "own" / name / "latest")
        assert found.record["data"]["n_train"] == 1257
        losses = {row["step"]: row["value"] for row in found.metrics if row["metric"] == "train/loss"}
        weights = torch.load(found.checkpoint("last"), weights_only=True)["state_dict"]
        scores = [row for row in found.metrics if row["metric"].startswith("val/")]
        return Trained(losses, scores, torch.load(file, weights_only=True), weights)

    return run


def assert_equal_training(one: Trained, other: Trained, tolerance: float) -> None:
    """Losses to a relative tolerance, gradients and weights to one of the norm of each."""
    assert one.losses.keys() == other.losses.keys() == set(range(STEPS))
    for step, loss in one.losses.items():
        assert other.losses[step] == pytest.approx(loss, rel=tolerance), f"loss of step {step}"
    assert len(one.gradients) == len(other.gradients) == STEPS
    states = [*enumerate(zip(one.gradients, other.gradients, strict=True)), ("the end", (one.weights, other.weights))]
    for step, (expected, found) in states:
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            distance = torch.linalg.vector_norm((found[name] - value).double())
            assert distance <= tolerance * torch.linalg.vector_norm(value.double()), f"{name} of step {step}"
    assert [row["metric"] for row in one.scores] == [row["metric"] for row in other.scores]
    for a, b in zip(one.scores, other.scores, strict=True):
        if a["metric"] == "val/loss":
            assert b == {**a, "value": pytest.approx(a["value"], rel=tolerance)}


@pytest.mark.parametrize("precision", TOLERANCE)
def test_two_processes_take_the_steps_of_one(fit: Any, precision: str) -> None:
    one = fit("one", precision, data__init_args__batch_size=BATCH)
    two = fit("two", precision, **{**TWO_PROCESSES, "data__init_args__batch_size": BATCH // 2})
    assert next(iter(one.weights.values())).dtype == getattr(torch, {"64-true": "float64"}.get(precision, "float32"))
    assert any(not torch.equal(a, b) for a, b in zip(one.weights.values(), two.weights.values(), strict=True))
    assert_equal_training(one, two, TOLERANCE[precision])


def test_tuned_and_accumulating_processes_take_the_steps_of_one(fit: Any) -> None:
    """With every option of ddp/tuned but 16-bit gradients; and in three batches per step, of which the last has two."""
    one = fit("one", data__init_args__batch_size=BATCH)
    options = {
        "process_group_backend": "gloo",
        "timeout": "0:00:20",
        "gradient_as_bucket_view": True,
        "static_graph": True,
        "bucket_cap_mb": 0.01,
    }
    tuned = fit(
        "tuned",
        trainer__devices=2,
        trainer__strategy={"class_path": "DDPStrategy", "init_args": options},
        data__init_args__batch_size=BATCH // 2,
    )
    assert_equal_training(one, tuned, TOLERANCE["64-true"])
    small = {**TWO_PROCESSES, "trainer__accumulate_grad_batches": 3, "data__init_args__batch_size": BATCH // 6}
    assert_equal_training(one, fit("accumulating", **small), TOLERANCE["64-true"])


@pytest.mark.slow
def test_one_process_accumulates_to_the_step_of_the_whole_batch(fit: Any) -> None:
    one = fit("one", data__init_args__batch_size=BATCH)
    small = fit("small", trainer__accumulate_grad_batches=4, data__init_args__batch_size=BATCH // 4)
    assert_equal_training(one, small, TOLERANCE["64-true"])


def test_no_gradient_travels_between_two_steps(forked: Command, tmp_path: Path, runs: Path) -> None:
    file = tmp_path / "counts"
    config = digits_config(
        trainer__max_epochs=1, trainer__accumulate_grad_batches=4, trainer__num_sanity_val_steps=0, **TWO_PROCESSES
    )
    config["data"]["init_args"]["batch_size"] = 30
    config["trainer"]["callbacks"].append({"class_path": "faulty.CountReductions", "init_args": {"path": str(file)}})
    forked("fit", "-c", write_config(tmp_path / "four.yaml", config), "--trust", "faulty")
    counts = [int(word) for word in file.read_text().split()]
    assert len(counts) == 21, "1,258 samples in batches of 60"
    stepped = [batch for batch, buckets in enumerate(counts) if buckets]
    assert stepped == [3, 7, 11, 15, 19, 20], "every fourth batch, and the last one of the epoch"
    assert all(later - earlier <= 4 for earlier, later in pairwise(stepped))
