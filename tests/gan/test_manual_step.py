"""A manual step uses the whole batch, changes one network, and clips complete gradients."""

from typing import Any, cast

import pytest
import torch
from pytorch_lightning.plugins.precision import MixedPrecision

from plcourse import Trainer
from plcourse.data import Batch
from plcourse.gan.adversarial import squared_gradient
from plcourse.gan.gaussians import GaussianGrid, GaussianQuality
from plcourse.gan.latents import training_latents
from plcourse.gan.manual_step import cut
from plcourse.gan.networks import PointDiscriminator, PointGenerator
from plcourse.gan.nonsaturating import GAN
from plcourse.gan.r3gan import R3GAN
from plcourse.gan.wgan_gp import WGANGP
from plcourse.training.schedules import WarmupCosine
from trainers import quiet_trainer

MODELS = (GAN, WGANGP, R3GAN)


def model(cls: Any = R3GAN, **arguments: Any) -> Any:
    torch.manual_seed(0)
    networks = PointGenerator(hidden=(16,)), PointDiscriminator(hidden=(16,))
    return cls(*networks, GaussianQuality(), **arguments)


def sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.1)


def fit(module: Any, steps: int = 1, **settings: Any) -> Trainer:
    trainer = quiet_trainer(max_steps=steps, max_epochs=99, limit_val_batches=0, **settings)
    trainer.fit(module, GaussianGrid(n_train=60, batch_size=30, side=3))
    return trainer


def weights(module: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in (*module.generator.parameters(), *module.discriminator.parameters())]


class TestTurns:
    @pytest.mark.medium
    @pytest.mark.parametrize("cls", MODELS)
    @pytest.mark.parametrize("parts", [3, 7, 99])
    def test_micro_batches_take_the_step_of_the_whole_batch(self, cls: Any, parts: int) -> None:
        whole, cutted = (model(cls, micro_batches=n, generator_optimizer=sgd) for n in (1, parts))
        for module in (whole, cutted):
            fit(module, steps=3, precision="64-true")
        for one, other in zip(weights(whole), weights(cutted), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)

    def test_the_step_is_that_of_the_formula(self) -> None:
        """One iteration of R3GAN with plain gradient descent, written out."""
        rate, gamma = 0.1, 0.3
        module = model(R3GAN, gamma=gamma, generator_optimizer=sgd, discriminator_optimizer=sgd)
        trainer = fit(module, precision="64-true")
        loader: Any = trainer.train_dataloader
        batch = next(iter(loader))
        by_hand = model(R3GAN).double()
        generator, discriminator = by_hand.generator, by_hand.discriminator
        ids, real = batch["id"], batch["point"].double().requires_grad_()
        fake = generator(training_latents("discriminator", 0, 0, ids, 2).double()).detach().requires_grad_()
        score_real, score_fake = discriminator(real), discriminator(fake)
        penalty = sum(
            torch.autograd.grad(score.sum(), x, create_graph=True)[0].square().sum(1).mean()
            for score, x in ((score_real, real), (score_fake, fake))
        )
        loss = torch.log1p(torch.exp(score_fake - score_real)).mean() + gamma / 2 * penalty
        parameters = list(discriminator.parameters())
        for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.data -= rate * gradient
        fake = generator(training_latents("generator", 0, 0, ids, 2).double())
        loss = torch.log1p(torch.exp(discriminator(real) - discriminator(fake))).mean()
        parameters = list(generator.parameters())
        for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            p.data -= rate * gradient
        for stepped, expected in zip(weights(module), weights(by_hand), strict=True):
            torch.testing.assert_close(stepped, expected, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("cls", MODELS)
    def test_both_networks_take_gradients_after_a_step(self, cls: Any) -> None:
        module = model(cls)
        fit(module)
        assert all(p.requires_grad for p in (*module.generator.parameters(), *module.discriminator.parameters()))
        assert not any(p.requires_grad for p in module.average.parameters())

    def test_the_parts_of_a_batch_add_up_to_the_batch(self) -> None:
        batch = Batch({"point": torch.arange(10), "id": [str(i) for i in range(10)], "rank_weight": 0.5})
        parts = list(cut(batch, 3))
        assert torch.equal(torch.cat([part["point"] for part, _ in parts]), batch["point"])
        assert sum(weight for _, weight in parts) == pytest.approx(0.5)
        assert [len(part["id"]) for part, _ in parts] == [3, 3, 4]
        assert len(list(cut(batch, 99))) == 10

    def test_the_squared_gradient_is_per_sample(self) -> None:
        x = torch.randn(5, 3, requires_grad=True)
        found = squared_gradient((x**2).sum(1), x)
        assert torch.allclose(found, (2 * x).square().sum(1))
        assert found.requires_grad


class TestClipping:
    def step_length(self, clip: float | None, **settings: Any) -> float:
        module = model(GAN, gradient_clip_val=clip, discriminator_optimizer=sgd)
        before = [p.detach().clone() for p in module.discriminator.parameters()]
        fit(module, **settings)
        moved = [p.detach() - q for p, q in zip(module.discriminator.parameters(), before, strict=True)]
        return float(torch.cat([m.reshape(-1) for m in moved]).norm())

    def test_no_step_is_longer_than_the_clip_allows(self) -> None:
        free = self.step_length(None)
        assert free > 0.1 * 0.01
        assert self.step_length(0.01) == pytest.approx(0.1 * 0.01, rel=1e-3)
        assert self.step_length(1e6) == pytest.approx(free)

    def test_gradients_are_unscaled_before_clipping(self) -> None:
        """The loss is scaled by 1024; a clip before unscaling would leave a thousandth of the step."""
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)  # pyright: ignore[reportPrivateImportUsage]
        plugin = MixedPrecision("16-mixed", "cpu", scaler)
        assert self.step_length(0.01, plugins=[plugin]) == pytest.approx(0.1 * 0.01, rel=0.02)

    @pytest.mark.parametrize("cls", MODELS)
    def test_bfloat16_trains(self, cls: Any) -> None:
        module = model(cls)
        fit(module, steps=2, precision="bf16-mixed")
        assert all(w.isfinite().all() and w.dtype == torch.float32 for w in weights(module))


class TestSchedules:
    @pytest.mark.parametrize("cls", MODELS)
    def test_each_schedule_ends_with_the_training(self, cls: Any) -> None:
        module = model(cls, generator_lr_scheduler=WarmupCosine, discriminator_lr_scheduler=WarmupCosine)
        trainer = fit(module, steps=4)
        assert [o.param_groups[0]["lr"] for o in trainer.optimizers] == pytest.approx([0, 0], abs=1e-12)
        turns = 5 if cls is WGANGP else 1
        assert [cast(Any, c.scheduler).total_steps for c in trainer.lr_scheduler_configs] == [4, 4 * turns]


class TestAverage:
    def test_it_lies_between_the_first_and_the_last_weights(self) -> None:
        module = model(GAN, ema_decay=0.9, generator_optimizer=sgd)
        first = module.generator.layers[0].weight.detach().clone()
        fit(module, steps=1)
        last = module.generator.layers[0].weight
        # after iteration 0 the past weighs 1/10
        torch.testing.assert_close(module.average.network.layers[0].weight, 0.1 * first + 0.9 * last)

    def test_without_averaging_it_is_the_generator(self) -> None:
        module = model(GAN, ema_decay=0.0)
        fit(module, steps=2)
        for own, current in zip(module.average.network.parameters(), module.generator.parameters(), strict=True):
            assert torch.equal(own, current)

    @pytest.mark.parametrize("decay", [-0.1, 1.0])
    def test_a_decay_out_of_range_is_refused(self, decay: float) -> None:
        with pytest.raises(ValueError, match="ema_decay"):
            model(GAN, ema_decay=decay)
