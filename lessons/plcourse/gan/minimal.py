"""Lesson 13 on one page: two networks, two optimizers, and one `training_step` that decides which one steps when.

    python -m plcourse.gan.minimal

The Trainer's automatic optimization assumes one loss and one optimizer. A GAN has two of each, so it switches to manual
optimization: the discriminator takes a step, then the generator. The loss is that of R3GAN (Huang et al. 2024, arXiv
2501.05441, equations 2 to 4): the score of a real sample counts only relative to that of a generated one, and penalties
on the discriminator's gradient at real (R1) and generated samples (R2) keep the training from oscillating.

Shape suffixes: B samples of the batch; points have two coordinates.
"""

import copy
import logging
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from plcourse.gan.gaussians import GaussianGrid


class Network(nn.Module):
    """Fully connected layers on Fourier features (Tancik et al. 2020); without these, narrow modes are learned late."""

    directions: Tensor

    def __init__(self, outputs: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("directions", scale * torch.randn(2, 64))
        self.layers = nn.Sequential(
            *(nn.Linear(2 + 2 * 64, 128), nn.LeakyReLU(0.2)),
            *(nn.Linear(128, 128), nn.LeakyReLU(0.2)),
            nn.Linear(128, outputs),
        )

    def forward(self, x_B2: Tensor) -> Tensor:
        """Latents or points [B, 2] in; points [B, 2] or scores [B, 1] out."""
        angle = x_B2 @ self.directions
        return self.layers(torch.cat([x_B2, angle.sin(), angle.cos()], dim=1))


def penalty(score_B1: Tensor, point_B2: Tensor) -> Tensor:
    """The mean squared norm of the scores' gradients at the points."""
    (gradient,) = torch.autograd.grad(score_B1.sum(), point_B2, create_graph=True)
    return gradient.square().sum(dim=1).mean()


class R3GAN(pl.LightningModule):
    """A generator of points and a discriminator; `average`, a moving average of the generator, makes the samples."""

    def __init__(self, gamma: float = 0.1, lr: float = 0.002, decay: float = 0.995) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.gamma, self.lr, self.decay = gamma, lr, decay
        self.generator, self.discriminator = Network(2, scale=3.0), Network(1, scale=2.0)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)

    def latents(self, real_B2: Tensor) -> Tensor:
        """As many standard normal latents as there are real points."""
        return torch.randn_like(real_B2)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Takes a step with the discriminator, then with the generator, and updates the average."""
        optimizers: Any = self.optimizers()
        generator_optimizer, discriminator_optimizer = optimizers
        real = batch["point"].requires_grad_()

        fake = self.generator(self.latents(real)).detach().requires_grad_()  # no gradient for the generator here
        real_score, fake_score = self.discriminator(real), self.discriminator(fake)
        loss = softplus(fake_score - real_score).mean()
        loss = loss + self.gamma / 2 * (penalty(real_score, real) + penalty(fake_score, fake))
        self.step(discriminator_optimizer, loss)

        fake_score = self.discriminator(self.generator(self.latents(real)))
        with torch.no_grad():
            real_score = self.discriminator(real)
        self.step(generator_optimizer, softplus(real_score - fake_score).mean())

        for average, weight in zip(self.average.parameters(), self.generator.parameters(), strict=True):
            average.lerp_(weight.detach(), 1 - self.decay)

    def step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        """One optimizer step, as in automatic optimization; first clears gradients left by the other network's loss."""
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Returns the optimizers of the generator and of the discriminator, in this order."""
        networks = (self.generator, self.discriminator)
        return [torch.optim.Adam(network.parameters(), lr=self.lr, betas=(0.0, 0.99)) for network in networks]


@torch.no_grad()
def modes_found(model: R3GAN, data: GaussianGrid, samples: int = 2500) -> int:
    """The number of modes that have at least a tenth of their expected points within 3 standard deviations."""
    center_M2 = torch.from_numpy(data.centers).float()
    distance, mode = torch.cdist(model.average(torch.randn(samples, 2)), center_M2).min(dim=1)
    counts = torch.bincount(mode[distance <= 3 * data.std], minlength=len(center_M2))
    return int((counts >= 0.1 * samples / len(center_M2)).sum())


if __name__ == "__main__":
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    pl.seed_everything(0, verbose=False)
    gan, grid = R3GAN(), GaussianGrid(n_train=12800, batch_size=128)
    trainer = pl.Trainer(max_epochs=20, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(gan, grid.train_dataloader())
    print(f"modes found: {modes_found(gan, grid)} of {len(grid.centers)}")
