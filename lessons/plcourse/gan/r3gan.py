"""R3GAN's objective: a relativistic loss with penalties at real and generated samples, which converges locally.

The idea (Huang et al. 2024, arXiv 2501.05441, equations 2 to 4): a score counts only relative to the score of a sample
of the other kind. The discriminator wants each real sample above a generated one, the generator the reverse. Neither
can win by shifting all scores, and dropping a mode of the data costs the generator. Zero-centered penalties on the
discriminator's gradient at real (R1) and generated samples (R2) keep the game from going in circles::

    d = D(x_real) - D(G(z))                     paired at random
    L_D = E softplus(-d) + gamma/2 E |grad D(x_real)|^2 + gamma/2 E |grad D(G(z))|^2
    L_G = E softplus(d)

The objective is the paper's; the networks are this lesson's small ones.

    plcourse fit -c gan/r3gan --then test,predict
"""

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import nn
from torch.nn import functional

from plcourse.data import Batch
from plcourse.gan.adversarial import AdversarialModule, discriminator_stats, in_full_precision, squared_gradient
from plcourse.gan.manual_step import DISCRIMINATOR, GENERATOR, Scalars
from plcourse.gan.quality import Quality


class R3GAN(AdversarialModule):
    """Trains a generator against a discriminator with the regularized relativistic loss.

    Logs what `AdversarialModule` logs; ``train/balance`` and ``train/pair_accuracy``, see `discriminator_stats`; and
    ``train/r1`` and ``train/r2``, the penalties before weighting. It logs no accuracy, since only differences of
    scores count.

    Args:
        generator: maps latents [B, latent_dim] to samples; has the attribute ``latent_dim``.
        discriminator: maps samples to scores [B], each a function of its sample alone.
        quality: scores generated samples.
        gamma: weight of the penalties, 0 or more; a larger one stabilizes training and blurs samples.
        generator_optimizer: builds the generator's optimizer from its parameters.
        discriminator_optimizer: the same for the discriminator.
        generator_lr_scheduler: builds the generator's schedule, stepped per turn; None for a constant rate.
        discriminator_lr_scheduler: the same for the discriminator.
        ema_decay: decay of the averaged generator that makes the samples, 0 to less than 1.
        gradient_clip_val: largest gradient norm of each network; None clips nothing.
        micro_batches: number of parts a batch is split into; their gradients are summed.
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
        optimizers = (generator_optimizer, discriminator_optimizer, generator_lr_scheduler, discriminator_lr_scheduler)
        super().__init__(generator, discriminator, quality, *optimizers, ema_decay, gradient_clip_val, micro_batches)
        self.gamma = gamma

    def discriminator_loss(self, batch: Batch, turn: int) -> Scalars:
        """The relativistic loss plus both penalties, in full precision even under autocast."""
        with torch.no_grad():
            fake = self.generate(DISCRIMINATOR, batch, turn)
        with in_full_precision(self):
            real = batch[self.quality.field].detach().requires_grad_()
            fake = fake.to(real).requires_grad_()
            real_B, fake_B = self.discriminator(real), self.discriminator(fake)
            r1, r2 = squared_gradient(real_B, real).mean(), squared_gradient(fake_B, fake).mean()
            loss = functional.softplus(fake_B - real_B).mean() + self.gamma / 2 * (r1 + r2)
        return {"loss": loss, "r1": r1, "r2": r2, **discriminator_stats(real_B, fake_B)}

    def generator_loss(self, batch: Batch) -> Scalars:
        """The relativistic loss with the roles swapped."""
        fake_B = self.discriminator(self.generate(GENERATOR, batch))
        with torch.no_grad():
            real_B = self.discriminator(batch[self.quality.field])
        return {"loss": functional.softplus(real_B - fake_B).mean()}
