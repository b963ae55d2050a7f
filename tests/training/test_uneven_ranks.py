"""A value that the ranks would have to reduce in unequal numbers of batches is refused at once, not after a timeout."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torchmetrics import MeanMetric

from plcourse.errors import UserError
from plcourse.training.uneven_ranks import EvaluationMetrics
from support import TWO_PROCESSES, Command, digits_config, write_config

STEP, EPOCH = {"on_step": True, "on_epoch": True}, {"on_step": False, "on_epoch": True}
SYNC = {"sync_dist": True, "batch_size": 1}
CASES: dict[str, tuple[tuple[int, ...], str, dict[str, Any], bool]] = {
    "in each step": ((3, 2), "test_step", {**STEP, **SYNC}, True),
    "a rank without batches": ((1, 0), "validation_step", {**EPOCH, **SYNC}, True),
    "a hook of a batch": ((3, 2), "on_test_batch_end", {**STEP, **SYNC}, True),
    "equal numbers": ((2, 2), "test_step", {**STEP, **SYNC}, False),
    "at the end, and every rank has batches": ((3, 2), "test_step", {**EPOCH, **SYNC}, False),
    "not reduced": ((1, 0), "test_step", {**STEP, "batch_size": 1}, False),
    "in a hook that every rank runs": ((1, 0), "on_test_epoch_end", {**EPOCH, **SYNC}, False),
}


@pytest.mark.parametrize("name", CASES)
def test_calls_that_would_wait(name: str) -> None:
    batches, hook, settings, refused = CASES[name]
    metrics = EvaluationMetrics(training=False)
    metrics.batches = batches
    if not refused:
        metrics.log(hook, "test/loss", torch.tensor(1.0), **settings)
        return
    with pytest.raises(UserError) as error:
        metrics.log(hook, "test/loss", torch.tensor(1.0), **settings)
    stage = "validation" if "validation" in hook else "test"
    counts = f"rank 0 has {batches[0]}, rank 1 has {batches[1]}"
    assert re.search(rf"'test/loss'\) in {hook} .*{counts}.* log it in on_{stage}_epoch_end", str(error.value))


def test_a_metric_that_a_rank_never_updates() -> None:
    metrics = EvaluationMetrics(training=False)
    metrics.batches = (1, 0)
    with pytest.raises(UserError, match="update a torchmetrics metric in test_step and log it in on_test_epoch_end"):
        metrics.log("test_step", "test/mean", MeanMetric(), **EPOCH, batch_size=1)


@pytest.mark.medium
def test_two_processes_and_one_sample(forked: Command, tmp_path: Path, runs: Path) -> None:
    config = digits_config(data__init_args__test_size=1, **TWO_PROCESSES)
    config["model"] = {"class_path": "stock_modules.LogsEachBatch"}
    path = write_config(tmp_path / "uneven.yaml", config)
    error = forked("test", "-c", path, "--allow_untrained", "--trust", "stock_modules", status=2).stderr
    assert "self.log('test/brightness') in test_step" in error
    assert "rank 0 has 1, rank 1 has 0" in error
    assert error.count("\n") == 1
