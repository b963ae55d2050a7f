"""The Wasserstein GAN with gradient penalty: a critic that is pushed toward Lipschitz constant 1.

The idea (Gulrajani et al. 2017, arXiv 1704.00028, algorithm 1): the difference of the critic's mean scores estimates
the Wasserstein distance as long as the critic changes by at most 1 per unit of input. A penalty pulls the norm of its
gradient to 1 at random points between real and generated samples::

    L_D = E D(G(z)) - E D(x_real) + lambda E (|grad D(x)| - 1)^2        x = e x_real + (1 - e) G(z), e ~ U(0, 1)
    L_G = -E D(G(z))                                                    after n_critic turns of the critic

    plcourse fit -c gan/wgan_gp --then test,predict
"""

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn

from plcourse.data import Batch
from plcourse.gan.adversarial import AdversarialModule, discriminator_stats, in_full_precision, squared_gradient
from plcourse.gan.latents import mixing_fractions
from plcourse.gan.manual_step import DISCRIMINATOR, GENERATOR, Scalars
from plcourse.gan.quality import Quality


class WGANGP(AdversarialModule):
    """Trains a generator against a critic with gradient penalty.

    An iteration takes one batch of real samples: ``n_critic`` turns of the critic, each against new generated samples,
    then one turn of the generator. (In the paper each turn also takes new real samples. One batch per iteration makes
    the models of this lesson comparable: they see as many real samples and take as many generator steps.)

    Logs what `AdversarialModule` logs, of the critic's last turn; ``train/balance``, which estimates the Wasserstein
    distance, and ``train/pair_accuracy`` of `discriminator_stats`; and ``train/penalty``, before weighting. It logs no
    accuracy, since a critic's zero means nothing.

    Args:
        generator: maps latents [B, latent_dim] to samples; has the attribute ``latent_dim``.
        discriminator: the critic; maps samples to scores [B], each a function of its sample alone.
        quality: scores generated samples.
        penalty_weight: lambda, 0 or more.
        n_critic: critic turns per iteration, 1 or more.
        generator_optimizer: builds the generator's optimizer from its parameters.
        discriminator_optimizer: the same for the critic.
        generator_lr_scheduler: builds the generator's schedule, stepped per turn; None for a constant rate.
        discriminator_lr_scheduler: the same for the critic.
        ema_decay: decay of the averaged generator that makes the samples, 0 to less than 1.
        gradient_clip_val: largest gradient norm of each network; None clips nothing.
        micro_batches: number of parts a batch is split into; their gradients are summed.

    Raises:
        ValueError: ``n_critic`` is below 1.
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
        if n_critic < 1:
            raise ValueError(f"n_critic is {n_critic}; it must be 1 or more")
        optimizers = (generator_optimizer, discriminator_optimizer, generator_lr_scheduler, discriminator_lr_scheduler)
        super().__init__(generator, discriminator, quality, *optimizers, ema_decay, gradient_clip_val, micro_batches)
        self.penalty_weight, self.discriminator_turns = penalty_weight, n_critic

    def discriminator_loss(self, batch: Batch, turn: int) -> Scalars:
        """The negative difference of the mean scores, plus the weighted penalty."""
        real = batch[self.quality.field]
        with torch.no_grad():
            fake = self.generate(DISCRIMINATOR, batch, turn)
        real_B, fake_B = self.discriminator(real), self.discriminator(fake)
        with in_full_precision(self):
            fraction_B = mixing_fractions(self.global_step, turn, batch["id"]).to(real)
            fraction = fraction_B.reshape(-1, *[1] * (real.ndim - 1))
            mixed = (fraction * real + (1 - fraction) * fake.to(real)).requires_grad_()
            norm_B = (squared_gradient(self.discriminator(mixed), mixed) + 1e-12).sqrt()  # finite slope at 0
            penalty = (norm_B - 1).square().mean()
        return {
            "loss": fake_B.mean() - real_B.mean() + self.penalty_weight * penalty,
            "penalty": penalty,
            **discriminator_stats(real_B, fake_B),
        }

    def generator_loss(self, batch: Batch) -> Scalars:
        """The negative mean score of generated samples."""
        return {"loss": -self.discriminator(self.generate(GENERATOR, batch)).mean()}
