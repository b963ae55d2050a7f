"""The Wasserstein GAN with gradient penalty: a critic that is driven towards Lipschitz constant 1.

The idea (Gulrajani et al. 2017, arXiv 1704.00028, algorithm 1): the critic's score difference estimates the Wasserstein
distance as long as the critic changes by at most 1 per unit of input. A penalty pulls the norm of its gradient to 1 at
random points between real and generated samples::

    L_D = E D(G(z)) - E D(x_real) + lambda E (|grad D(x)| - 1)^2        x = e x_real + (1 - e) G(z), e ~ U(0, 1)
    L_G = -E D(G(z))                                                    after n_critic turns of the critic

    plcourse fit -c gan/wgan_gp --then test,predict
"""

from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from plcourse.core.exportable import Signature
from plcourse.core.metrics import is_logging_step
from plcourse.gan import sampling
from plcourse.gan.latents import mixing_shares
from plcourse.gan.quality import Quality
from plcourse.gan.turns import (
    DISCRIMINATOR,
    GENERATOR,
    Report,
    clip,
    in_full_precision,
    judgement,
    log_turns,
    squared_gradient,
    take_turn,
    two_optimizers,
)


class WGANGP(pl.LightningModule):
    """Trains a generator against a critic with gradient penalty.

    An iteration is one batch of real samples: ``n_critic`` turns of the critic, each against newly generated samples,
    then one of the generator. (The paper takes other real samples in each turn as well. One batch per iteration makes
    the iterations of all models in this lesson comparable: as many real samples, as many turns of the generator.)

    Logs as `GAN` does, of the critic's last turn, but no ``real_accuracy`` and ``fake_accuracy``, since a critic's zero
    means nothing; and ``train/penalty``, before its weight. The estimate of the Wasserstein distance is
    ``train/balance``.

    Args:
        generator: makes latents [B, latent_dim] into samples; has the attribute ``latent_dim``.
        discriminator: the critic; gives scores [B] to samples, each score a function of its sample alone.
        quality: scores generated samples.
        penalty_weight: lambda, 0 or more.
        n_critic: turns of the critic in each iteration, 1 or more.
        generator_optimizer: builds the generator's optimizer from its parameters.
        discriminator_optimizer: the same for the critic.
        generator_lr_scheduler: builds the generator's schedule, stepped per turn; None for a constant rate.
        discriminator_lr_scheduler: the same for the critic.
        ema_decay: of the averaged generator that samples are taken from.
        gradient_clip_val: largest gradient norm of each network; None clips nothing.
        micro_batches: parts of a batch that are computed one after the other, their gradients summed up.

    Raises:
        ValueError: an ``n_critic`` below 1.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        quality: Quality,
        penalty_weight: float = 10.0,
        n_critic: int = 5,
        generator_optimizer: OptimizerCallable = lambda params: torch.optim.Adam(params, lr=1e-4, betas=(0.0, 0.9)),
        discriminator_optimizer: OptimizerCallable = lambda params: torch.optim.Adam(params, lr=1e-4, betas=(0.0, 0.9)),
        generator_lr_scheduler: LRSchedulerCallable | None = None,
        discriminator_lr_scheduler: LRSchedulerCallable | None = None,
        ema_decay: float = 0.995,
        gradient_clip_val: float | None = None,
        micro_batches: int = 1,
    ) -> None:
        super().__init__()
        if n_critic < 1:
            raise ValueError(f"n_critic is {n_critic}; it must be 1 or more")
        self.automatic_optimization = False
        self.generator, self.discriminator, self.quality = generator, discriminator, quality
        self.average = sampling.MovingAverage(generator, ema_decay)
        self.builders = (
            generator_optimizer,
            discriminator_optimizer,
            generator_lr_scheduler,
            discriminator_lr_scheduler,
        )
        self.penalty_weight, self.n_critic = penalty_weight, n_critic
        self.gradient_clip_val, self.micro_batches = gradient_clip_val, micro_batches

    def forward(self, latent_BZ: Tensor) -> Tensor:
        """Latents [B, latent_dim] in, samples of the averaged generator out."""
        return self.average(latent_BZ)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Report:
        """One iteration: the critic's turns, then the generator's, then the average moves."""
        reports = {}
        for turn in range(self.n_critic):
            loss_of = partial(self.discriminator_loss, turn=turn)
            reports[DISCRIMINATOR] = take_turn(self, DISCRIMINATOR, batch, loss_of, self.micro_batches)
        reports[GENERATOR] = take_turn(self, GENERATOR, batch, self.generator_loss, self.micro_batches)
        self.average.update(self.generator, self.global_step)
        if is_logging_step(self.trainer):
            log_turns(self, reports)
        return {"loss": reports[DISCRIMINATOR]["loss"] + reports[GENERATOR]["loss"]}

    def discriminator_loss(self, batch: dict[str, Any], turn: int = 0) -> Report:
        """The score difference, turned round, and the penalty."""
        real = batch[self.quality.field]
        with torch.no_grad():
            fake = sampling.generate(self, DISCRIMINATOR, batch, turn)
        real_B, fake_B = self.discriminator(real), self.discriminator(fake)
        with in_full_precision(self):
            share_B = mixing_shares(self.global_step, turn, batch["id"]).to(real)
            share = share_B.reshape(-1, *[1] * (real.ndim - 1))
            mixed = (share * real + (1 - share) * fake.to(real)).requires_grad_()
            norm_B = (squared_gradient(self.discriminator(mixed), mixed) + 1e-12).sqrt()  # finite slope at 0
            penalty = (norm_B - 1).square().mean()
        return {
            "loss": fake_B.mean() - real_B.mean() + self.penalty_weight * penalty,
            "penalty": penalty,
            **judgement(real_B, fake_B),
        }

    def generator_loss(self, batch: dict[str, Any]) -> Report:
        """The score of generated samples, turned round."""
        return {"loss": -self.discriminator(sampling.generate(self, GENERATOR, batch)).mean()}

    def configure_optimizers(self) -> Any:
        """Two optimizers and their schedules, as the config names them."""
        return two_optimizers(self, *self.builders, discriminator_turns=self.n_critic)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clips, where gradients are complete and unscaled."""
        self.gradient_norm = clip(self, optimizer, self.gradient_clip_val)

    def setup(self, stage: str) -> None:
        """Prepares the measure of quality."""
        sampling.prepare(self)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Scores as many generated samples as the batch has real ones."""
        sampling.score(self, batch)

    def on_validation_epoch_end(self) -> None:
        """Logs the scores; called on every rank, also on one that held no sample."""
        sampling.log_scores(self, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Scores as many generated samples as the batch has real ones."""
        sampling.score(self, batch)

    def on_test_epoch_end(self) -> None:
        """Logs the scores; called on every rank, also on one that held no sample."""
        sampling.log_scores(self, "test")

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> sampling.Columns:
        """Samples from seeds, and a row of the table for each."""
        return sampling.predict(self, batch)

    def export_signature(self) -> Signature:
        """Latents in, samples of the averaged generator out, which must come no less close to the real ones."""
        return sampling.signature(self)

    def export_inputs(self, batch: dict[str, Any]) -> tuple[Tensor, ...]:
        """The latents [B, latent_dim] of the samples that the test compares with the batch."""
        return (sampling.latents_beside(self, batch),)
