"""What the configs of lesson 12 switch on: recomputed activations, a scaled learning rate, 16-bit gradients."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from plcourse.ddp.compression import GradientCompression
from plcourse.ddp.data import ImageData
from plcourse.ddp.model import ImageClassifier
from plcourse.ddp.networks import MLP, ResNet
from plcourse.errors import UserError
from plcourse.training.schedules import WarmupCosine
from support import TWO_PROCESSES, Command, digits_config, write_config
from trainers import quiet_trainer


def losses_and_saved(recompute: bool) -> tuple[torch.Tensor, list[torch.Tensor], int]:
    """The loss, the gradients, and the bytes that the forward pass keeps for the backward pass."""
    torch.manual_seed(0)
    network = ResNet(widths=(16, 32), blocks=2, recompute=recompute).double()
    draw = torch.Generator().manual_seed(1)
    image = torch.randn(8, 1, 16, 16, generator=draw, dtype=torch.float64)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = network(image).square().mean()
    saved = sum(kept.values())
    loss.backward()
    return loss, [weight.grad for weight in network.parameters() if weight.grad is not None], saved


def test_recomputed_activations_change_no_bit_and_keep_less() -> None:
    loss, gradients, saved = losses_and_saved(recompute=False)
    loss_2, gradients_2, saved_2 = losses_and_saved(recompute=True)
    assert torch.equal(loss, loss_2)
    assert all(torch.equal(a, b) for a, b in zip(gradients, gradients_2, strict=True))
    assert saved_2 < saved / 2


def test_without_groups_every_norm_is_a_batch_norm_that_can_be_synchronized() -> None:
    network = ResNet(groups=0)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d | nn.GroupNorm)]
    assert len(norms) == 6
    assert all(isinstance(norm, nn.BatchNorm2d) for norm in norms)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in converted.modules()) == 6


class Holder:
    """As much of a trainer as configuring an optimizer asks for."""

    estimated_stepping_batches = 10

    def __init__(self, world_size: int, accumulate_grad_batches: int) -> None:
        self.world_size, self.accumulate_grad_batches = world_size, accumulate_grad_batches


@pytest.mark.parametrize(("scaling", "world_size", "accumulate"), [(False, 4, 2), (True, 1, 1), (True, 4, 2)])
def test_the_linear_rule_multiplies_the_peak_rate(scaling: bool, world_size: int, accumulate: int) -> None:
    def two_groups(params: Any) -> SGD:
        first, *rest = params
        return SGD([{"params": [first], "lr": 0.3}, {"params": rest}], lr=0.1)

    module = ImageClassifier(
        MLP(64), optimizer=two_groups, lr_scheduler=lambda o: WarmupCosine(o, warmup=0.0), linear_scaling=scaling
    )
    module._trainer = Holder(world_size, accumulate)  # pyright: ignore[reportAttributeAccessIssue]
    configured: Any = module.configure_optimizers()
    factor = world_size * accumulate if scaling else 1
    rates = [group["lr"] for group in configured["optimizer"].param_groups]
    assert rates == pytest.approx([0.3 * factor, 0.1 * factor])
    schedule = configured["lr_scheduler"]["scheduler"]
    assert schedule.base_lrs == pytest.approx(rates)


def test_two_processes_with_the_linear_rule_take_twice_the_rate(forked: Command, tmp_path: Any, runs: Any) -> None:
    for name, changes in {"plain": {}, "scaled": {"model__init_args__linear_scaling": True}}.items():
        config = digits_config(
            trainer__max_epochs=1,
            trainer__limit_train_batches=4,
            trainer__log_every_n_steps=1,
            **TWO_PROCESSES,
            **changes,
        )
        forked("fit", "-c", write_config(tmp_path / f"{name}.yaml", config))
    tables = [(runs / "own" / name / "latest" / "metrics.csv").read_text() for name in ("plain", "scaled")]
    rates = [[float(line.split(",")[3]) for line in table.splitlines() if "train/lr" in line] for table in tables]
    assert len(rates[0]) == 4
    assert rates[1] == pytest.approx([2 * rate for rate in rates[0]], rel=1e-6)


class TestCompression:
    def fit(self, forked: Command, tmp_path: Any, dtype: str | None, status: int = 0) -> Any:
        config = digits_config(
            trainer__max_epochs=1, trainer__limit_train_batches=6, trainer__log_every_n_steps=1, **TWO_PROCESSES
        )
        config["model"]["init_args"]["network"]["init_args"]["dropout"] = 0.0
        if dtype:
            config["trainer"]["callbacks"].append({"class_path": "GradientCompression", "init_args": {"dtype": dtype}})
        return forked("fit", "-c", write_config(tmp_path / f"{dtype}.yaml", config), status=status)

    def test_gradients_in_16_bits_lead_nearly_the_same_way(self, forked: Command, tmp_path: Any, runs: Any) -> None:
        found = []
        for dtype in (None, "float16"):
            self.fit(forked, tmp_path, dtype)
            table = (runs / "own" / str(dtype) / "latest" / "metrics.csv").read_text()
            found.append([float(line.split(",")[3]) for line in table.splitlines() if "train/loss" in line])
        assert len(found[0]) == 6
        assert found[0][0] == found[1][0], "the first loss is from before any gradient"
        assert found[0] != found[1], "16 bits round"
        assert found[1] == pytest.approx(found[0], rel=0.01)

    def test_what_gloo_cannot_average_is_refused_in_one_line(self, forked: Command, tmp_path: Any, runs: Any) -> None:
        done = self.fit(forked, tmp_path, "bfloat16", status=2)
        assert "gloo cannot average bfloat16; use dtype float16 on CPUs" in done.stderr

    def test_one_process_has_nothing_to_send(self) -> None:
        trainer = quiet_trainer(max_steps=1, limit_val_batches=0, callbacks=[GradientCompression()])
        trainer.fit(ImageClassifier(MLP(64)), ImageData("digits"))
        assert trainer.global_step == 1

    def test_a_strategy_without_buckets_is_refused(self) -> None:
        class Strategy:
            model = nn.Linear(2, 2)

        class Two:
            world_size = 2
            strategy = Strategy()

        with pytest.raises(UserError, match=r"needs a DDP strategy; trainer\.strategy is Strategy"):
            GradientCompression().on_fit_start(Two(), ImageClassifier(MLP(64)))  # pyright: ignore[reportArgumentType]
