"""The non-saturating GAN with DCGAN-like networks: the first one to try, and the baseline of the others.

The idea (Goodfellow et al. 2014, arXiv 1406.2661, section 3): a discriminator learns to tell real samples from
generated ones, and a generator learns to make the discriminator say "real"::

    L_D = E softplus(-D(x_real)) + E softplus(D(G(z)))        the cross-entropies, with sigmoid(D(x)) = P(x is real)
    L_G = E softplus(-D(G(z)))                                not -softplus(D(G(z))), whose gradient vanishes at first

    plcourse fit -c gan/nonsaturating --then test,predict
"""

import torch
from torch.nn import functional

from plcourse.data import Batch
from plcourse.gan.adversarial import AdversarialModule, discriminator_stats
from plcourse.gan.manual_step import DISCRIMINATOR, GENERATOR, Scalars


class GAN(AdversarialModule):
    """Trains a generator against a discriminator with the non-saturating loss.

    Logs what `AdversarialModule` logs; ``train/real_accuracy`` and ``train/fake_accuracy``, the fractions of real and
    generated samples that the discriminator classifies correctly; and ``train/balance`` and ``train/pair_accuracy`` of
    `discriminator_stats`.
    """

    def discriminator_loss(self, batch: Batch, turn: int) -> Scalars:
        """The sum of both mean cross-entropies, and how well the discriminator classifies."""
        with torch.no_grad():
            fake = self.generate(DISCRIMINATOR, batch, turn)
        real_B, fake_B = self.discriminator(batch[self.quality.field]), self.discriminator(fake)
        return {
            "loss": functional.softplus(-real_B).mean() + functional.softplus(fake_B).mean(),
            "real_accuracy": (real_B > 0).to(real_B.dtype).mean(),
            "fake_accuracy": (fake_B < 0).to(fake_B.dtype).mean(),
            **discriminator_stats(real_B, fake_B),
        }

    def generator_loss(self, batch: Batch) -> Scalars:
        """The mean cross-entropy of generated samples labeled as real."""
        score_B = self.discriminator(self.generate(GENERATOR, batch))
        return {"loss": functional.softplus(-score_B).mean()}
