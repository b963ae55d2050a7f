"""The non-saturating GAN, with DCGAN's kind of networks: the first thing to try, and the baseline of the others.

The idea (Goodfellow et al. 2014, arXiv 1406.2661, section 3): a discriminator learns to tell real from generated, a
generator learns to be taken for real. With scores s = D(x), sigma(s) the probability of being real::

    L_D = E softplus(-D(x_real)) + E softplus(D(G(z)))        the two cross-entropies
    L_G = E softplus(-D(G(z)))                                not -softplus(D(G(z))), whose gradient vanishes at first

    plcourse fit -c gan/nonsaturating --then test,predict
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
    judgement,
    log_turns,
    take_turn,
    two_optimizers,
)


class GAN(pl.LightningModule):
    """Trains a generator against a discriminator with the non-saturating loss, one turn each per iteration.

    Logs every ``log_every_n_steps`` iterations ``train/discriminator_loss``, ``train/generator_loss``, the gradient
    norms before clipping (``train/<network>_grad_norm``), the rates, ``train/real_accuracy`` and
    ``train/fake_accuracy`` (shares that the discriminator judges rightly), ``train/pair_accuracy`` and
    ``train/balance`` (see `judgement`); and the scores of ``quality`` for the stages val and test.

    Args:
        generator: makes latents [B, latent_dim] into samples; has the attribute ``latent_dim``.
        discriminator: gives scores [B] to samples.
        quality: scores generated samples.
        generator_optimizer: builds the generator's optimizer from its parameters.
        discriminator_optimizer: the same for the discriminator.
        generator_lr_scheduler: builds the generator's schedule, stepped per turn; None for a constant rate.
        discriminator_lr_scheduler: the same for the discriminator.
        ema_decay: of the averaged generator that samples are taken from.
        gradient_clip_val: largest gradient norm of each network; None clips nothing.
        micro_batches: parts of a batch that are computed one after the other, their gradients summed up: the step of
            the whole batch in the memory of a part.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        quality: Quality,
        generator_optimizer: OptimizerCallable = lambda params: torch.optim.Adam(params, lr=2e-4, betas=(0.5, 0.999)),
        discriminator_optimizer: OptimizerCallable = lambda params: torch.optim.Adam(
            params, lr=2e-4, betas=(0.5, 0.999)
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
        """The mean of both cross-entropies, and how well it judges."""
        with torch.no_grad():
            fake = sampling.generate(self, DISCRIMINATOR, batch)
        real_B, fake_B = self.discriminator(batch[self.quality.field]), self.discriminator(fake)
        return {
            "loss": functional.softplus(-real_B).mean() + functional.softplus(fake_B).mean(),
            "real_accuracy": (real_B > 0).to(real_B.dtype).mean(),
            "fake_accuracy": (fake_B < 0).to(fake_B.dtype).mean(),
            **judgement(real_B, fake_B),
        }

    def generator_loss(self, batch: dict[str, Any]) -> Report:
        """The mean cross-entropy of being taken for real."""
        score_B = self.discriminator(sampling.generate(self, GENERATOR, batch))
        return {"loss": functional.softplus(-score_B).mean()}

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clips, where gradients are complete and unscaled."""
        self.gradient_norm = clip(self, optimizer, self.gradient_clip_val)

    def configure_optimizers(self) -> Any:
        """Two optimizers and their schedules, as the config names them."""
        return two_optimizers(self, *self.builders)

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
