"""From a trained generator to samples: the averaged weights, and what the evaluation steps of every model here do.

Shape suffixes: B samples, Z latent dimensions.
"""

import copy
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from plcourse.core.data import keys_of
from plcourse.core.errors import UserError
from plcourse.core.exportable import Input, Output, Signature
from plcourse.gan.latents import latents_of, training_latents
from plcourse.gan.turns import PLAYERS


class MovingAverage(nn.Module):
    """A generator whose weights are an exponential moving average of those in training (Yazici et al. 2019).

    The two networks of a GAN circle each other; the average of the generator's path lies nearer to its centre. Samples,
    scores and predictions come from it.

    Args:
        network: the generator; it is copied.
        decay: weight of the past in each step, 0 (no averaging) up to but not 1. Early steps take less, so that the
            initial weights are soon forgotten.

    Raises:
        ValueError: a decay that is out of range.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay is {decay}: give 0 or more, and less than 1")
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Moves the average towards the weights after iteration ``step``, counted from 0."""
        average = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
        average(list(self.network.parameters()), list(network.parameters()), step)
        for own, current in zip(self.network.buffers(), network.buffers(), strict=True):
            own.copy_(current)

    def forward(self, latent_BZ: Tensor) -> Tensor:
        """Latents [B, Z] in, samples out."""
        return self.network(latent_BZ)


class Columns(dict[str, Any]):
    """Columns of the table of predictions, with the samples that they describe.

    Attributes:
        samples: the generated samples, for callbacks that write them elsewhere.
    """

    samples: Tensor


def prepare(module: Any) -> None:
    """What `setup` does: gets the measure of quality ready, and refuses data that the networks do not fit.

    Raises:
        UserError: the generator makes samples of another shape than the data have.
    """
    trainer: pl.Trainer = module.trainer
    module.quality.prepare(trainer)
    wanted = getattr(getattr(trainer, "datamodule", None), "shape", None)
    made = tuple(sample(module, np.zeros(1, np.uint64)).shape[1:])
    if wanted is not None and made != tuple(wanted):
        raise UserError(
            f"the generator makes samples of shape {list(made)}, but the data have {list(wanted)}: set "
            "channels and image_size of generator and discriminator to the data's, or data.init_args.image_size"
        )


def generate(module: Any, player: int, batch: dict[str, Any], turn: int = 0) -> Tensor:
    """Samples of the generator in training, one beside each real sample of a batch, for one turn of ``player``."""
    latent_BZ = training_latents(PLAYERS[player], module.global_step, turn, batch["id"], module.generator.latent_dim)
    return module.generator(latent_BZ.to(module.device, module.dtype))


@torch.no_grad()
def sample(module: Any, keys: np.ndarray) -> Tensor:
    """Samples of the averaged generator.

    Args:
        module: the model.
        keys: uint64 [B]; seeds, or keys of ids. Sample b depends on ``keys[b]`` and the weights alone.
    """
    latent_BZ = latents_of(keys, module.generator.latent_dim)
    return module(latent_BZ.to(module.device, module.dtype))


def latents_beside(module: Any, batch: dict[str, Any]) -> Tensor:
    """The latents [B, latent_dim] of the samples that are generated beside a batch of real ones, by their ids."""
    return latents_of(keys_of(batch["id"]), module.generator.latent_dim)


def signature(module: Any) -> Signature:
    """Latents in, samples out; the distance from the real samples must not grow."""
    return Signature((Input("latent"),), (Output("sample"),), f"test/{module.quality.distance}", "min")


def score(module: Any, batch: dict[str, Any]) -> None:
    """Adds a batch of real samples, and one generated for each, to the scores."""
    module.quality.update(batch[module.quality.field], sample(module, keys_of(batch["id"])))


def log_scores(module: Any, stage: str) -> None:
    """Logs the scores of all processes as ``<stage>/<name>``; a collective."""
    scores = {f"{stage}/{name}": value for name, value in module.quality.scores(module.trainer).items()}
    shown = {f"{stage}/{name}" for name in ("frechet", "modes", "good")}
    for name, value in scores.items():
        # equal on all ranks already; without sync_dist Lightning warns
        module.log(name, torch.tensor(value, dtype=torch.float32), prog_bar=name in shown, sync_dist=True)


def predict(module: Any, batch: dict[str, Any]) -> Columns:
    """The samples of a batch of seeds, and a row on each: ``id``, ``seed`` and what the measure of quality says."""
    samples = sample(module, batch["seed"].cpu().numpy().astype(np.uint64))
    columns = Columns(id=batch["id"], seed=batch["seed"], **module.quality.describe(samples))
    columns.samples = samples
    return columns
