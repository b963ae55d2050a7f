"""R3GAN's objective: a relativistic loss with penalties on both sides, which is known to converge locally.

The idea (Huang et al. 2024, arXiv 2501.05441, equations 2 to 4): a score counts only against that of the other kind.
The discriminator wants each real sample above a generated one, the generator the reverse; no side can win by moving all
scores, and dropping a mode of the data costs the generator. Zero-centred penalties on the discriminator's gradient at
real (R1) and at generated samples (R2) keep the game from running in circles::

    d = D(x_real) - D(G(z))                     paired at random
    L_D = E softplus(-d) + gamma/2 E |grad D(x_real)|^2 + gamma/2 E |grad D(G(z))|^2
    L_G = E softplus(d)

This is the paper's objective on this lesson's small networks, not the paper's network.

    plcourse fit -c gan/r3gan --then test,predict
"""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional

from plcourse.core.exportable import Signature
from plcourse.core.metrics import is_logging_step
from plcourse.gan import sampling
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


class R3GAN(pl.LightningModule):
    """Trains a generator against a discriminator with the regularised relativistic loss.

    Logs as `GAN` does, but no ``real_accuracy`` and ``fake_accuracy``, since only differences of scores count; and
    ``train/r1`` and ``train/r2``, the penalties before their weight.

    Args:
        generator: makes latents [B, latent_dim] into samples; has the attribute ``latent_dim``.
        discriminator: gives scores [B] to samples, each score a function of its sample alone.
        quality: scores generated samples.
        gamma: weight of the penalties, 0 or more; larger is more stable and blurs more.
        generator_optimizer: builds the generator's optimizer from its parameters.
        discriminator_optimizer: the same for the discriminator.
        generator_lr_scheduler: builds the generator's schedule, stepped per turn; None for a constant rate.
        discriminator_lr_scheduler: the same for the discriminator.
        ema_decay: of the averaged generator that samples are taken from.
        gradient_clip_val: largest gradient norm of each network; None clips nothing.
        micro_batches: parts of a batch that are computed one after the other, their gradients summed up.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        quality: Quality,
        gamma: float = 1.0,
        generator_optimizer: OptimizerCallable = lambda params: torch.optim.Adam(params, lr=2e-4, betas=(0.0, 0.99)),
        discriminator_optimizer: OptimizerCallable = lambda params: torch.optim.Adam(
            params, lr=2e-4, betas=(0.0, 0.99)
        ),
        generator_lr_scheduler: LRSchedulerCallable | None = None,
        discriminator_lr_scheduler: LRSchedulerCallable | None = None,
        ema_decay: float = 0.995,
        gradient_clip_val: float | None = None,
        micro_batches: int = 1,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.discriminator, self.quality = generator, discriminator, quality
        self.average = sampling.MovingAverage(generator, ema_decay)
        self.builders = (
            generator_optimizer,
            discriminator_optimizer,
            generator_lr_scheduler,
            discriminator_lr_scheduler,
        )
        self.gamma = gamma
        self.gradient_clip_val, self.micro_batches = gradient_clip_val, micro_batches

    def forward(self, latent_BZ: Tensor) -> Tensor:
        """Latents [B, latent_dim] in, samples of the averaged generator out."""
        return self.average(latent_BZ)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Report:
        """One iteration: the discriminator's turn, then the generator's, then the average moves."""
        reports = {
            DISCRIMINATOR: take_turn(self, DISCRIMINATOR, batch, self.discriminator_loss, self.micro_batches),
            GENERATOR: take_turn(self, GENERATOR, batch, self.generator_loss, self.micro_batches),
        }
        self.average.update(self.generator, self.global_step)
        if is_logging_step(self.trainer):
            log_turns(self, reports)
        return {"loss": reports[DISCRIMINATOR]["loss"] + reports[GENERATOR]["loss"]}

    def discriminator_loss(self, batch: dict[str, Any]) -> Report:
        """The relativistic loss and both penalties, in single precision even under autocast."""
        with torch.no_grad():
            fake = sampling.generate(self, DISCRIMINATOR, batch)
        with in_full_precision(self):
            real = batch[self.quality.field].detach().requires_grad_()
            fake = fake.to(real).requires_grad_()
            real_B, fake_B = self.discriminator(real), self.discriminator(fake)
            r1, r2 = squared_gradient(real_B, real).mean(), squared_gradient(fake_B, fake).mean()
            loss = functional.softplus(fake_B - real_B).mean() + self.gamma / 2 * (r1 + r2)
        return {"loss": loss, "r1": r1, "r2": r2, **judgement(real_B, fake_B)}

    def generator_loss(self, batch: dict[str, Any]) -> Report:
        """The relativistic loss, the other way round."""
        fake_B = self.discriminator(sampling.generate(self, GENERATOR, batch))
        with torch.no_grad():
            real_B = self.discriminator(batch[self.quality.field])
        return {"loss": functional.softplus(real_B - fake_B).mean()}

    def configure_optimizers(self) -> Any:
        """Two optimizers and their schedules, as the config names them."""
        return two_optimizers(self, *self.builders)

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
