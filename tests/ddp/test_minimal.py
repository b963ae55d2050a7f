"""The page that shows the idea takes the steps of the lesson, and its two processes take those of one."""

from pathlib import Path

import pytest
import torch

from plcourse import Run
from plcourse.ddp.minimal import distance, rank_process, train_on
from support import TWO_PROCESSES, Command, digits_config, write_config


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_the_minimal_ranks_arrive_at_the_weights_of_the_lesson(forked: Command, tmp_path: Path, runs: Path) -> None:
    config = digits_config(**TWO_PROCESSES, trainer__precision="64-true", trainer__max_epochs=2, seed_everything=0)
    config["model"]["init_args"] = {
        "network": {"class_path": "MLP", "init_args": {"hidden": [128]}},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9, "nesterov": True}},
        "lr_scheduler": None,
    }
    config["data"]["init_args"] = {"source": "digits", "val_size": 181, "batch_size": 54}
    forked("fit", "-c", write_config(tmp_path / "lesson.yaml", config))
    checkpoint = torch.load(Run.load("own/lesson", runs).checkpoint("last"), weights_only=True)
    lesson = [value for name, value in checkpoint["state_dict"].items() if name.startswith("network.")]
    minimal = train_on(2)
    assert len(lesson) == len(minimal) == 4
    for expected, found in zip(lesson, minimal.values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    rank_process(0, 1, True, str(tmp_path))
    one = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert distance(one, minimal) < 1e-12
    assert distance(one, train_on(2, weighted=False)) > 1e-5
