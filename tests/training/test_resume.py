"""A killed and resumed run ends exactly like one that was never killed."""

import random
from pathlib import Path
from typing import Any

import pytest

from support import TWO_PROCESSES, Command, digits_config, kill_at_step

STEPS_PER_EPOCH = 20  # 1,257 training digits in batches of 64


def test_killed_in_mid_epoch_or_before_the_first_checkpoint_and_resumed(
    forked: Command, tmp_path: Path, runs: Path
) -> None:
    for step in (2 * STEPS_PER_EPOCH + 11, 3):
        kill_at_step(forked, tmp_path, runs, "one", step, digits_config())


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_killed_at_random_steps(forked: Command, tmp_path: Path, runs: Path, processes: int, num_workers: int) -> None:
    """5 of the 20 kills: at random steps of the first 3 epochs and a half."""
    changes: dict[str, Any] = {"data__init_args__num_workers": num_workers}
    if processes == 2:
        changes |= TWO_PROCESSES
    chooser = random.Random(f"{processes} {num_workers}")
    for step in chooser.sample(range(1, int(3.5 * STEPS_PER_EPOCH)), 5):
        kill_at_step(forked, tmp_path, runs, f"p{processes}w{num_workers}", step, digits_config(**changes))
