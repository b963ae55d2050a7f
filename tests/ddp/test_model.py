"""The classifier: shapes of every network, and the same steps whether one process takes them or several."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchvision
from torch.nn import functional

from plcourse import Run, Trainer
from plcourse.data import TrainSampler
from plcourse.ddp.data import ImageData
from plcourse.ddp.model import ImageClassifier
from plcourse.ddp.networks import MLP, ResidualBlock, ResNet
from support import TWO_PROCESSES, Command, digits_config, write_config
from trainers import quiet_trainer


def trainer(**settings: Any) -> Trainer:
    return quiet_trainer(**{"max_epochs": 1, **settings})


def classifier(network: torch.nn.Module, num_classes: int = 10, **arguments: Any) -> ImageClassifier:
    """A classifier that a trainer holds, so that its steps can be called."""
    module = ImageClassifier(network, num_classes, **arguments)
    module.trainer = trainer(log_every_n_steps=10**9)
    return module


def images(n: int, channels: int = 1, size: int = 8, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(n)
    return {
        "image": torch.randn(n, channels, size, size, generator=draw, dtype=dtype),
        "label": torch.randint(10, (n,), generator=draw),
        "id": [str(i) for i in range(n)],
        "rank_weight": 1.0,
    }


NETWORKS = {
    "ResNet": (lambda: ResNet(), 1, 8),
    "ResNet of 3 channels, 2 blocks": (lambda: ResNet(3, 10, (16, 32), blocks=2), 3, 32),
    "ResNet of odd size": (lambda: ResNet(1, 10, (16, 24, 32)), 1, 7),
    "MLP": (lambda: MLP(64), 1, 8),
    "MLP of 2 layers": (lambda: MLP(3 * 36, 10, (32, 16), dropout=0.5), 3, 6),
    "linear": (lambda: MLP(64, 10, ()), 1, 8),
    "resnet18": (lambda: torchvision.models.resnet18(num_classes=10), 3, 32),
}


class TestShapes:
    @pytest.mark.parametrize("name", NETWORKS)
    @pytest.mark.parametrize("channels_last", [False, True])
    def test_scores_gradients_and_predictions(self, name: str, channels_last: bool) -> None:
        build, channels, size = NETWORKS[name]
        module = classifier(build(), channels_last=channels_last)
        batch = images(5, channels, size)
        assert module(batch["image"]).shape == (5, 10)
        loss = module.training_step(batch, 0)
        assert loss.shape == ()
        loss.backward()
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in module.parameters())
        module.eval()
        predicted = module.predict_step(batch, 0)
        assert predicted["id"] == batch["id"]
        assert predicted["label"].shape == (5,)
        assert predicted["probability"].shape == (5, 10)
        assert torch.allclose(predicted["probability"].sum(1), torch.ones(5))
        assert torch.equal(predicted["probability"].argmax(1), predicted["label"])

    def test_the_stages_after_the_first_halve_the_resolution(self) -> None:
        network = ResNet(1, 10, (8, 16, 24), blocks=2)
        assert network.stages(network.stem(torch.zeros(2, 1, 32, 32))).shape == (2, 24, 8, 8)

    def test_a_block_that_changes_nothing_has_a_shortcut_without_weights(self) -> None:
        assert not list(ResidualBlock(8, 8).shortcut.parameters())
        assert ResidualBlock(8, 16, stride=2).shortcut(torch.zeros(1, 8, 6, 6)).shape == (1, 16, 3, 3)


class TestLoss:
    @pytest.mark.parametrize("smoothing", [0.0, 0.3])
    def test_label_smoothing_moves_mass_to_all_classes_while_training_only(self, smoothing: float) -> None:
        module, batch = classifier(MLP(64), label_smoothing=smoothing), images(7)
        log_probability = module(batch["image"]).log_softmax(1)
        hard = -log_probability[range(7), batch["label"]].mean()
        smooth = (1 - smoothing) * hard - smoothing * log_probability.mean()
        assert module.training_step(batch, 0).item() == pytest.approx(smooth.item(), rel=1e-5)
        module.validation_step(batch, 0)
        assert module.val_scores.loss.compute().item() == pytest.approx(hard.item(), rel=1e-5)

    @pytest.mark.parametrize("name", ["ResNet", "resnet18"])
    def test_channels_last_gives_the_same_scores(self, name: str) -> None:
        build, channels, size = NETWORKS[name]
        torch.manual_seed(4)
        contiguous = classifier(build()).eval()
        last = classifier(build(), channels_last=True).eval()
        last.load_state_dict(contiguous.state_dict())
        assert any(
            parameter.is_contiguous(memory_format=torch.channels_last) and not parameter.is_contiguous()
            for parameter in last.parameters()
            if parameter.ndim == 4
        )
        image = images(6, channels, size)["image"]
        assert torch.allclose(last(image), contiguous(image), atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("every", [0, 1, 3])
    def test_any_logging_interval_of_lightning_is_taken(self, every: int) -> None:
        own = trainer(log_every_n_steps=every, limit_train_batches=4, limit_val_batches=1)
        own.fit(ImageClassifier(MLP(64)), ImageData("digits"))
        assert own.global_step == 4
        assert ("train/loss" in own.logged_metrics) == (every > 0)

    def test_batches_of_a_users_own_loader_need_no_weight(self) -> None:
        module, batch = classifier(MLP(64)), images(4)
        weighted = module.training_step(batch, 0)
        del batch["rank_weight"]
        assert torch.equal(module.training_step(batch, 0), weighted)


def gradients(module: ImageClassifier, batch: dict[str, Any]) -> list[torch.Tensor]:
    module.zero_grad()
    module.training_step(batch, 0).backward()
    return [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]


class TestRanks:
    @pytest.mark.parametrize("name", ["ResNet", "MLP"])
    @pytest.mark.parametrize(("world_size", "n"), [(2, 21), (2, 17), (3, 19), (4, 9)])
    def test_the_mean_over_ranks_is_the_gradient_of_the_whole_batch(self, name: str, world_size: int, n: int) -> None:
        build, channels, size = NETWORKS[name]
        torch.manual_seed(0)
        module = classifier(build()).double()
        whole = images(n, channels, size, torch.float64)
        samplers = [TrainSampler(n, 4, 1, rank, world_size) for rank in range(world_size)]
        plans = [list(sampler.batches(0)) for sampler in samplers]
        one = list(TrainSampler(n, 4 * world_size, 1).batches(0))
        sizes = [[len(plan[i]) for plan in plans] for i in range(len(plans[0]))]
        assert len(set(sizes[-1])) == 2, "the last batch is to be uneven"

        def part(indices: np.ndarray, weight: float) -> dict[str, Any]:
            chosen = torch.from_numpy(indices)
            return {"image": whole["image"][chosen], "label": whole["label"][chosen], "rank_weight": weight}

        for i in range(len(samplers[0])):
            together = np.concatenate([plan[i] for plan in plans])
            if len(one) == len(plans[0]):  # a remainder too small for all ranks goes to the batch before it
                assert sorted(together) == sorted(one[i])
            reference = gradients(module, part(together, 1.0))
            shares = [
                gradients(module, part(plan[i], sampler.rank_weight(i)))
                for plan, sampler in zip(plans, samplers, strict=True)
            ]
            for expected, *own in zip(reference, *shares, strict=True):
                assert torch.allclose(torch.stack(own).mean(0), expected, rtol=1e-12, atol=1e-14)

    def test_a_network_with_batch_norm_is_the_same_on_both_ranks_when_evaluated(
        self, forked: Command, tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = digits_config(
            trainer__precision="64-true",
            trainer__max_epochs=1,
            model__init_args__network={"class_path": "faulty.UnevenNorm"},
            data__init_args__test_size=101,
            **TWO_PROCESSES,
        )
        path = write_config(tmp_path / "two.yaml", config)
        forked("fit", "-c", path, "--trust", "faulty", "--then", "test")
        run = Run.load(runs / "own" / "two" / "latest")
        by_two = run.eval("test")
        assert by_two["coverage"] == {"expected": 101, "seen": 101, "twice": 0}
        assert by_two["processes"] == 2
        monkeypatch.setenv("PLCOURSE_TRUST", "faulty")
        alone = {"trainer.devices": 1, "trainer.strategy": "auto"}
        by_one = run.test(alone)
        assert run.eval("test")["processes"] == 1
        # the scores of the validation inside fit too are those of one model, the one in the checkpoint
        validated = run.validate(alone)
        inside_fit = {row["metric"]: row["value"] for row in run.metrics if row["metric"].startswith("val/")}
        for one, two in ((by_one, by_two["metrics"]), (validated, inside_fit)):
            assert one.keys() == two.keys()
            for name, value in one.items():
                assert two[name] == pytest.approx(value, rel=1e-12 if name.endswith("loss") else 0), name


class TestOptimizer:
    def test_the_schedule_ends_with_the_training(self) -> None:
        module = ImageClassifier(MLP(64))
        pl.seed_everything(1, verbose=False)
        own = trainer(max_epochs=2, limit_train_batches=5, limit_val_batches=1, accumulate_grad_batches=2)
        own.fit(module, ImageData("digits"))
        (config,) = own.lr_scheduler_configs
        schedule: Any = config.scheduler
        assert schedule.total_steps == own.global_step == 6
        assert config.interval == "step"
        assert own.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-12)

    def test_without_a_schedule_the_rate_stays(self) -> None:
        own = trainer(limit_train_batches=3, limit_val_batches=1)
        own.fit(ImageClassifier(MLP(64), lr_scheduler=None), ImageData("digits"))
        assert own.optimizers[0].param_groups[0]["lr"] == 0.1

    def test_training_learns_the_digits(self) -> None:
        pl.seed_everything(1, verbose=False)
        module = ImageClassifier(MLP(64))
        own = trainer(max_epochs=3, log_every_n_steps=1)
        own.fit(module, ImageData("digits"))
        chance = functional.cross_entropy(torch.zeros(1, 10), torch.zeros(1, dtype=torch.long)).item()
        assert own.callback_metrics["val/loss"].item() < chance / 4
        assert own.callback_metrics["val/accuracy"].item() > 0.9
