"""What the three GANs share: two optimizers stepped by hand, an averaged generator, and its evaluation.

A GAN of this lesson derives from `AdversarialModule` and adds its two losses.

Shape suffixes: B samples, Z latent dimensions.
"""

from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from plcourse.data import Batch, keys_of
from plcourse.errors import UserError
from plcourse.gan.averaging import MovingAverage
from plcourse.gan.latents import latents_of, training_latents
from plcourse.gan.manual_step import DISCRIMINATOR, GENERATOR, PLAYERS, Scalars, clip, take_turn
from plcourse.gan.quality import Quality
from plcourse.training.exportable import Input, Output, Signature
from plcourse.training.metrics import is_logging_step
from plcourse.training.schedules import with_schedule


class AdversarialModule(pl.LightningModule, ABC):
    """Trains a generator against a discriminator; a subclass defines both losses.

    Logs every ``log_every_n_steps`` iterations ``train/discriminator_loss``, ``train/generator_loss``, the gradient
    norms before clipping (``train/<network>_grad_norm``), the learning rates (``train/<network>_lr``), and the other
    scalars of the losses as ``train/<name>``. In validation and test it logs the scores of ``quality``.

    Args:
        generator: maps latents [B, latent_dim] to samples; has the attribute ``latent_dim``.
        discriminator: maps samples to scores [B]; larger means more real.
        quality: scores generated samples.
        generator_optimizer: builds the generator's optimizer from its parameters.
        discriminator_optimizer: the same for the discriminator.
        generator_lr_scheduler: builds the generator's schedule, stepped per turn; None for a constant rate.
        discriminator_lr_scheduler: the same for the discriminator.
        ema_decay: decay of the averaged generator that makes the samples, 0 to less than 1.
        gradient_clip_val: largest gradient norm of each network; None clips nothing.
        micro_batches: number of parts a batch is split into. Their gradients are summed, which takes the step of the
            whole batch in the memory of one part.
    """

    gradient_norm: Tensor | None = None  # of the last turn, before clipping
    discriminator_turns = 1  # per iteration

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
        self.latent_dim: int = generator.latent_dim  # pyright: ignore[reportAttributeAccessIssue]
        self.average = MovingAverage(generator, ema_decay)
        self.generator_optimizer, self.discriminator_optimizer = generator_optimizer, discriminator_optimizer
        self.generator_lr_scheduler = generator_lr_scheduler
        self.discriminator_lr_scheduler = discriminator_lr_scheduler
        self.gradient_clip_val, self.micro_batches = gradient_clip_val, micro_batches

    def training_step(self, batch: Batch, batch_idx: int) -> Scalars:
        """Runs one iteration: the discriminator's turns, the generator's turn, then an update of the average."""
        turns: dict[int, Scalars] = {}
        for turn in range(self.discriminator_turns):
            loss_of = partial(self.discriminator_loss, turn=turn)
            turns[DISCRIMINATOR] = take_turn(self, DISCRIMINATOR, batch, loss_of, self.micro_batches)
        turns[GENERATOR] = take_turn(self, GENERATOR, batch, self.generator_loss, self.micro_batches)
        self.average.update(self.generator, self.global_step)
        if is_logging_step(self.trainer):
            self._log_turns(turns)
        return {"loss": turns[DISCRIMINATOR]["loss"] + turns[GENERATOR]["loss"]}

    @abstractmethod
    def discriminator_loss(self, batch: Batch, turn: int) -> Scalars:
        """The discriminator's ``loss`` on a batch in one of its turns, and other scalars to log."""

    @abstractmethod
    def generator_loss(self, batch: Batch) -> Scalars:
        """The generator's ``loss`` on a batch, and other scalars to log."""

    def forward(self, latent_BZ: Tensor) -> Tensor:
        """Maps latents [B, Z] to samples of the averaged generator."""
        return self.average(latent_BZ)

    def generate(self, player: int, batch: Batch, turn: int = 0) -> Tensor:
        """Samples of the generator in training for a turn of ``player``, one for each real sample of the batch."""
        latent_BZ = training_latents(PLAYERS[player], self.global_step, turn, batch["id"], self.latent_dim)
        return self.generator(self._cast(latent_BZ))

    @torch.no_grad()
    def sample(self, keys: np.ndarray) -> Tensor:
        """Samples of the averaged generator; sample b depends on the weights and ``keys[b]`` alone (uint64 [B])."""
        return self(self._cast(latents_of(keys, self.latent_dim)))

    def configure_optimizers(self) -> list[Any]:
        """Builds the generator's optimizer and the discriminator's, each with its schedule."""
        generator = self.generator_optimizer(self.generator.parameters())
        discriminator = self.discriminator_optimizer(self.discriminator.parameters())
        return [
            with_schedule(self, generator, self.generator_lr_scheduler),
            with_schedule(self, discriminator, self.discriminator_lr_scheduler, self.discriminator_turns),
        ]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clips the gradients, which are complete and unscaled here."""
        self.gradient_norm = clip(self, optimizer, self.gradient_clip_val)

    def setup(self, stage: str) -> None:
        """Prepares the quality measure; a UserError if generated and real samples differ in shape."""
        self.quality.prepare(self.trainer)
        wanted = getattr(getattr(self.trainer, "datamodule", None), "shape", None)
        made = tuple(self.sample(np.zeros(1, np.uint64)).shape[1:])
        if wanted is not None and made != tuple(wanted):
            raise UserError(
                f"the generator makes samples of shape {list(made)}, but the data have {list(wanted)}: set "
                "channels and image_size of generator and discriminator to the data's, or data.init_args.image_size"
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Adds a batch of real samples, and one generated sample for each, to the scores."""
        self.quality.update(batch[self.quality.field], self.sample(keys_of(batch["id"])))

    def on_validation_epoch_end(self) -> None:
        """Logs the scores; runs on every rank, even one without samples."""
        self._log_scores("val")

    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        """Logs the scores; runs on every rank, even one without samples."""
        self._log_scores("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> "GeneratedColumns":
        """Generates the samples of a batch of seeds, with columns ``id``, ``seed`` and those of the quality measure."""
        samples = self.sample(batch["seed"].cpu().numpy().astype(np.uint64))
        columns = GeneratedColumns(id=batch["id"], seed=batch["seed"], **self.quality.describe(samples))
        columns.samples = samples
        return columns

    def export_signature(self) -> Signature:
        """Latents in, samples of the averaged generator out; their distance to the real samples must not grow."""
        return Signature((Input("latent"),), (Output("sample"),), f"test/{self.quality.distance}", "min")

    def export_inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """The latents [B, Z] of the samples that a test compares with the batch."""
        return (latents_of(keys_of(batch["id"]), self.latent_dim),)

    def _log_turns(self, turns: dict[int, Scalars]) -> None:
        """Logs means over all samples of all processes; loss, gradient norm and rate are named by their network."""
        for player, scalars in turns.items():
            for name, value in scalars.items():
                owner = f"{PLAYERS[player]}_" if name in ("loss", "grad_norm") else ""
                self.log(f"train/{owner}{name}", value, sync_dist=True, batch_size=1)
        for name, optimizer in zip(PLAYERS, self.trainer.optimizers, strict=True):
            self.log(f"train/{name}_lr", optimizer.param_groups[0]["lr"], batch_size=1)

    def _log_scores(self, stage: str) -> None:
        for name, value in self.quality.scores(self.trainer).items():
            score, shown = torch.tensor(value, dtype=torch.float32), name in ("frechet", "modes", "good")
            # all ranks have the same value already; Lightning warns without sync_dist
            self.log(f"{stage}/{name}", score, prog_bar=shown, sync_dist=True)

    def _cast(self, latent_BZ: Tensor) -> Tensor:
        return latent_BZ.to(self.device, self.dtype)  # pyright: ignore[reportCallIssue, reportArgumentType]


class GeneratedColumns(dict[str, Any]):
    """The rows of the prediction table about generated samples, as columns."""

    samples: Tensor  # the samples themselves, for callbacks that write them as images


def discriminator_stats(real_B: Tensor, fake_B: Tensor) -> Scalars:
    """How well the scores of a discriminator separate real from generated samples.

    Returns:
        ``balance``, the mean difference of the scores, and ``pair_accuracy``, the fraction of pairs in which the real
        sample scores higher. They are 0 and 0.5 for a discriminator that cannot tell them apart.
    """
    ahead_B = real_B.detach() - fake_B.detach()
    return {"balance": ahead_B.mean(), "pair_accuracy": (ahead_B > 0).to(ahead_B.dtype).mean()}


def squared_gradient(score_B: Tensor, sample_BX: Tensor) -> Tensor:
    """The squared norm of each score's gradient with respect to its sample, [B]; differentiable."""
    (gradient_BX,) = torch.autograd.grad(score_B.sum(), sample_BX, create_graph=True)
    return gradient_BX.square().flatten(1).sum(dim=1)


def in_full_precision(module: pl.LightningModule) -> torch.autocast:
    """Turns autocast off, since squared input gradients underflow in 16 bits."""
    return torch.autocast(module.device.type, enabled=False)
