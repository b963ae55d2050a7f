"""`minimal.py` takes the same steps with both networks as the lesson."""

from typing import Any, cast

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from plcourse.gan import adversarial, minimal
from plcourse.gan.gaussians import GaussianGrid, GaussianQuality
from plcourse.gan.networks import PointDiscriminator, PointGenerator
from plcourse.gan.r3gan import R3GAN
from trainers import QUIET


def train(model: pl.LightningModule) -> None:
    torch.manual_seed(1)  # the latents, drawn in the same order by both
    trainer = pl.Trainer(max_epochs=2, enable_checkpointing=False, limit_val_batches=0, **QUIET)
    data = GaussianGrid(n_train=410, batch_size=40)
    trainer.fit(model, data.train_dataloader()) if isinstance(model, minimal.R3GAN) else trainer.fit(
        model, datamodule=data
    )


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Between modules that hold the same tensors under other names."""
    state = zip(target.state_dict(), source.state_dict().values(), strict=True)
    target.load_state_dict(dict(state))


@pytest.mark.medium
def test_the_minimal_gan_takes_the_steps_of_the_lesson(monkeypatch: pytest.MonkeyPatch) -> None:
    def latents(purpose: str, step: int, turn: int, ids: list[str], dimensions: int) -> Tensor:
        return torch.randn(len(ids), dimensions)

    monkeypatch.setattr(adversarial, "training_latents", latents)
    pl.seed_everything(3, verbose=False)

    def adam(parameters: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=0.002, betas=(0.0, 0.99))

    lesson = R3GAN(PointGenerator(), PointDiscriminator(), GaussianQuality(), 0.1, adam, adam)
    page = minimal.R3GAN(gamma=0.1, lr=0.002)
    for name in ("generator", "discriminator"):
        copy_weights(getattr(lesson, name), getattr(page, name))
    first: Any = page.generator.layers[0]
    before = first.weight.detach().clone()
    train(lesson)
    train(page)
    assert not torch.allclose(before, first.weight, atol=1e-3)
    for name in ("generator", "discriminator"):
        expected, found = (list(getattr(model, name).state_dict().values()) for model in (lesson, page))
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-5)


def test_modes_are_counted_where_the_average_puts_its_points() -> None:
    data = GaussianGrid()
    page = minimal.R3GAN()
    assert minimal.modes_found(page, data) < 10

    class Perfect(nn.Module):
        def forward(self, latent: Tensor) -> Tensor:
            mode = torch.arange(len(latent)) % 20  # five of the 25 are missing
            return torch.from_numpy(data.centers).float()[mode] + 0.1 * latent

    page.average = cast(Any, Perfect())
    assert minimal.modes_found(page, data) == 20
