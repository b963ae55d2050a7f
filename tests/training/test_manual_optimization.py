"""For a module that steps its optimizers, a batch is one step, and the Trainer's settings for that are refused."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from gan_configs import points_config
from plcourse import Run, Trainer
from plcourse.errors import UserError
from support import Command, write_config
from trainers import SMALL_DATA, quiet_trainer

pytestmark = SMALL_DATA


class ThreeSteps(pl.LightningModule):
    """Steps two optimizers three times in every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layers = torch.nn.ModuleList([torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)])
        self.seen: list[int] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.seen.append(self.global_step)
        optimizers: Any = self.optimizers()
        first, second = optimizers
        for optimizer, layer in ((first, self.layers[0]), (second, self.layers[1]), (first, self.layers[0])):
            optimizer.zero_grad()
            self.manual_backward(layer(batch).square().mean())
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(layer.parameters(), lr=0.01) for layer in self.layers]


def fit(**settings: Any) -> tuple[Trainer, ThreeSteps]:
    trainer = quiet_trainer(**settings)
    module = ThreeSteps()
    rows: Any = torch.randn(20, 2)
    trainer.fit(module, DataLoader(rows, batch_size=2))
    return trainer, module


class TestCounting:
    def test_max_steps_counts_batches(self) -> None:
        trainer, module = fit(max_steps=4)
        assert trainer.global_step == 4
        assert module.seen == [0, 1, 2, 3]

    def test_epochs_go_on_counting(self) -> None:
        trainer, module = fit(max_epochs=3)
        assert trainer.global_step == 30
        assert module.seen == list(range(30))

    @pytest.mark.parametrize("setting", [{"gradient_clip_val": 1.0}, {"accumulate_grad_batches": 2}])
    def test_what_only_automatic_optimization_does_is_refused(self, setting: dict[str, Any]) -> None:
        (name,) = setting
        with pytest.raises(UserError, match=rf"trainer\.{name} is .* ThreeSteps .*by hand: .* in its training_step"):
            fit(max_epochs=1, **setting)


class TestRuns:
    def test_tables_and_checkpoints_count_iterations(self, forked: Command, tmp_path: Path, runs: Path) -> None:
        config = points_config("WGANGP", trainer__max_epochs=10, trainer__max_steps=14, trainer__log_every_n_steps=5)
        forked("fit", "-c", write_config(tmp_path / "count.yaml", config))
        run = Run.load(runs / "own/count/latest")
        steps = [row["step"] for row in run.metrics if row["metric"] == "train/generator_loss"]
        assert steps == [4, 9]
        checkpoint = torch.load(run.checkpoint("last"), weights_only=True)
        assert checkpoint["global_step"] == 14
        assert run.record["steps"] == 14
        critic = checkpoint["optimizer_states"][1]["state"][0]["step"]
        assert int(critic) == 14 * 5  # five turns of the critic in each iteration

    @pytest.mark.parametrize(
        ("flag", "value", "remedy"),
        [
            ("gradient_clip_val", "0.5", "--model.init_args.gradient_clip_val 0.5"),
            ("accumulate_grad_batches", "4", "--model.init_args.micro_batches 4"),
        ],
    )
    def test_the_trainers_flags_are_one_line(
        self, flag: str, value: str, remedy: str, forked: Command, tmp_path: Path
    ) -> None:
        path = write_config(tmp_path / "own.yaml", points_config())
        done = forked("fit", "-c", path, f"--trainer.{flag}", value, status=2)
        (line,) = [line for line in done.stderr.splitlines() if line.strip()]
        assert line.startswith(f"plcourse: error: trainer.{flag} is {value}, but R3GAN steps its optimizers by hand")
        assert remedy in line
