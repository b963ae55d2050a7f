"""Where generated samples come from: latents that are a function of what they are for, never of who draws them.

A training latent is drawn from (seed, iteration, turn, id of the real sample beside it), a latent for evaluation or
prediction from its seed alone. So two processes draw what one would, a resumed run draws what it would have, and any
one sample can be made again.

Shape suffixes: B samples, Z latent dimensions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plcourse.data import keys_of, normals, run_seed, uniforms
from plcourse.data.randoms import stream

_STREAMS = {"discriminator": 0x64, "generator": 0x67, "mixing": 0x6D, "evaluation": 0x65}


def _seed(purpose: str, turn: int) -> int:
    """The run's seed, mixed so that no two purposes or turns share a draw."""
    return int(stream(run_seed(), _STREAMS[purpose], turn)[0])


def training_latents(purpose: str, step: int, turn: int, ids: Sequence[str], dimensions: int) -> Tensor:
    """Standard normal latents, float32 [B, Z], for one turn.

    Args:
        purpose: ``discriminator`` or ``generator``, whose turns draw independently.
        step: the iteration.
        turn: the network's turn within the iteration.
        ids: the ids of the B real samples of the batch.
        dimensions: Z.
    """
    return torch.from_numpy(normals(_seed(purpose, turn), step, keys_of(ids), dimensions)).float()


def mixing_shares(step: int, turn: int, ids: Sequence[str]) -> Tensor:
    """Uniform draws in [0, 1), float32 [B], one for each pair of a real and a generated sample."""
    return torch.from_numpy(uniforms(_seed("mixing", turn), step, keys_of(ids), 1)[:, 0]).float()


def latents_of(keys: np.ndarray, dimensions: int) -> Tensor:
    """The latents of numbered samples, float32 [B, Z]; the same in every run.

    Args:
        keys: uint64 [B], seeds of samples or keys of ids.
        dimensions: Z.
    """
    return torch.from_numpy(normals(_STREAMS["evaluation"], 0, keys, dimensions)).float()


def between(a_Z: Tensor, b_Z: Tensor, steps: int) -> Tensor:
    """Latents on the great circle from one to the other, [steps, Z], ends included (White 2016, arXiv 1609.04468).

    A straight line would pass nearer to the origin than a normal draw ever lies.
    """
    share_S1 = torch.linspace(0, 1, steps, dtype=a_Z.dtype, device=a_Z.device)[:, None]
    cosine = (a_Z / a_Z.norm()).dot(b_Z / b_Z.norm()).clamp(-1, 1)
    angle = torch.arccos(cosine)
    if angle.sin().abs() < 1e-6:  # the same direction, or opposite ones, between which no circle is the nearest
        return a_Z + share_S1 * (b_Z - a_Z)
    return (((1 - share_S1) * angle).sin() * a_Z + (share_S1 * angle).sin() * b_Z) / angle.sin()


class Seeds:
    """What a generator predicts from: numbered latents, as a data set for `BatchLoader`.

    Args:
        seeds: one non-negative number per sample.

    Raises:
        ValueError: a negative seed, or one twice.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        if any(seed < 0 for seed in seeds):
            raise ValueError(f"seed {min(seeds)} is negative: give 0 or more")
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is given twice: the same seed gives the same sample")
        self.seeds = np.array(seeds, np.int64)

    def __len__(self) -> int:
        return len(self.seeds)

    def fetch(self, indices: np.ndarray, epoch: int) -> dict[str, Any]:
        """``seed`` int64 [B] and ``id``, the seed as a string of 8 digits or more."""
        seeds = self.seeds[indices]
        return {"seed": torch.from_numpy(seeds), "id": [f"{seed:08d}" for seed in seeds.tolist()]}
