"""Two processes take the same steps as one, and a killed run ends like an uninterrupted one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from forking import Forker, kill_and_resume
from gan_configs import images_config, points_config
from plcourse import Run
from support import TWO_PROCESSES, Command, assert_same_end, failing, write_config

TWO = {**TWO_PROCESSES, "data__init_args__batch_size": 20}


def losses_and_weights(run: Run) -> tuple[dict[tuple[int, str], float], dict[str, torch.Tensor]]:
    rows = {(row["step"], row["metric"]): row["value"] for row in run.metrics}
    return rows, torch.load(run.checkpoint("last"), weights_only=True)["state_dict"]


def assert_one_equals_two(forked: Command, tmp_path: Path, runs: Path, config: dict[str, Any], share: int) -> None:
    """Double precision, an uneven last batch: every number logged and every weight agrees."""
    config["trainer"] |= {"precision": "64-true", "max_epochs": 1}
    forked("fit", "-c", write_config(tmp_path / "one.yaml", config), "--then", "test")
    config["trainer"] |= {"devices": 2, "strategy": TWO_PROCESSES["trainer__strategy"]}
    config["data"]["init_args"]["batch_size"] = share
    forked("fit", "-c", write_config(tmp_path / "two.yaml", config), "--then", "test")
    one, two = Run.load(runs / "own/one/latest"), Run.load(runs / "own/two/latest")
    (rows, weights), (rows_2, weights_2) = losses_and_weights(one), losses_and_weights(two)
    assert rows.keys() == rows_2.keys()
    assert len({step for step, _ in rows}) > 8
    for key, value in rows.items():
        assert rows_2[key] == pytest.approx(value, rel=1e-7, abs=1e-9), key
    for name, weight in weights.items():
        assert torch.allclose(weights_2[name], weight, rtol=0, atol=1e-9, equal_nan=True), name
    first, second = one.eval("test"), two.eval("test")
    assert second["coverage"] == first["coverage"]
    assert second["coverage"]["twice"] == 0
    assert second["processes"] == 2
    for name, value in first["metrics"].items():
        assert second["metrics"][name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("model", ["GAN", "R3GAN", pytest.param("WGANGP", marks=pytest.mark.slow)])
def test_two_processes_equal_one_on_points(model: str, forked: Command, tmp_path: Path, runs: Path) -> None:
    # 395 points in batches of 40: nine whole ones, and 35, which two processes cannot share evenly
    config = points_config(model, data__init_args__n_train=395, model__init_args__micro_batches=2)
    assert_one_equals_two(forked, tmp_path, runs, config, share=20)


def test_two_processes_equal_one_on_images(forked: Command, tmp_path: Path, runs: Path) -> None:
    config = images_config("R3GAN", data__init_args__batch_size=108)  # the last batch of 1,259 digits is uneven
    assert_one_equals_two(forked, tmp_path, runs, config, share=54)


def test_killed_in_mid_epoch_and_resumed(forked: Command, tmp_path: Path, runs: Path) -> None:
    config = points_config("WGANGP")
    forked("fit", "-c", write_config(tmp_path / "reference.yaml", config))
    marker = tmp_path / "killed"
    path = write_config(tmp_path / "kill.yaml", failing(config, step=17, how="kill_job", once=str(marker)))
    forked("fit", "-c", path, "--trust", "faulty", status=-9)
    assert marker.exists()
    latest = runs / "own" / "kill" / "latest"
    forked("fit", "--run", latest, "--ckpt_path", "last", "--trust", "faulty")
    assert_same_end(latest, runs / "own" / "reference" / "latest")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kills", "config"),
    [
        (4, images_config("GAN")),
        (4, images_config("R3GAN")),
        (4, points_config("WGANGP")),
        (4, points_config("WGANGP", **TWO)),
        (4, points_config("R3GAN", **TWO)),
    ],
    ids=["GAN", "R3GAN", "WGANGP", "WGANGP, two processes", "R3GAN, two processes"],
)
def test_killed_at_random_moments(kills: int, config: dict[str, Any], tmp_path: Path, runs: Path) -> None:
    """20 kills in all."""
    with Forker(tmp_path, "plcourse.gan.data", "plcourse.gan.gaussians", "plcourse.gan.features") as fork:
        kill_and_resume(fork, tmp_path, runs, config, kills, assert_same_end)
