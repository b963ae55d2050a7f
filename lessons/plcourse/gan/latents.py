"""Latents that are functions of what they are for, independent of the process that draws them.

A training latent is drawn from (seed, iteration, turn, id of the real sample it is paired with), a latent for
evaluation or prediction from its seed alone. So two processes draw the same latents as one, a resumed run draws the
same as an uninterrupted one, and any sample can be generated again.

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


def training_latents(purpose: str, step: int, turn: int, ids: Sequence[str], dimensions: int) -> Tensor:
    """Standard normal latents, float32 [B, Z], for a turn of a network in iteration ``step``.

    The draws for different purposes, ``discriminator`` or ``generator``, are independent.
    """
    return torch.from_numpy(normals(_seed(purpose, turn), step, keys_of(ids), dimensions)).float()


def mixing_fractions(step: int, turn: int, ids: Sequence[str]) -> Tensor:
    """Uniform draws in [0, 1), float32 [B], one for each pair of a real and a generated sample."""
    return torch.from_numpy(uniforms(_seed("mixing", turn), step, keys_of(ids), 1)[:, 0]).float()


def latents_of(keys: np.ndarray, dimensions: int) -> Tensor:
    """Standard normal latents, float32 [B, Z], of seeds or keys of ids (uint64 [B]); the same in every run."""
    return torch.from_numpy(normals(_STREAMS["evaluation"], 0, keys, dimensions)).float()


def _seed(purpose: str, turn: int) -> int:
    """A seed from that of the run, different for each purpose and turn."""
    return int(stream(run_seed(), _STREAMS[purpose], turn)[0])


def between(a_Z: Tensor, b_Z: Tensor, steps: int) -> Tensor:
    """Latents on the great circle between two latents, [steps, Z], ends included (White 2016, arXiv 1609.04468).

    A straight line would pass closer to the origin than normal draws lie.
    """
    fraction_S1 = torch.linspace(0, 1, steps, dtype=a_Z.dtype, device=a_Z.device)[:, None]
    cosine = (a_Z / a_Z.norm()).dot(b_Z / b_Z.norm()).clamp(-1, 1)
    angle = torch.arccos(cosine)
    if angle.sin().abs() < 1e-6:  # equal or opposite directions, for which the circle is undefined
        return a_Z + fraction_S1 * (b_Z - a_Z)
    return (((1 - fraction_S1) * angle).sin() * a_Z + (fraction_S1 * angle).sin() * b_Z) / angle.sin()


class Seeds:
    """The distinct seeds, each 0 or more, that a generator predicts from; a dataset for `BatchLoader`."""

    def __init__(self, seeds: Sequence[int]) -> None:
        if any(seed < 0 for seed in seeds):
            raise ValueError(f"seed {min(seeds)} is negative; seeds must be 0 or more")
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed appears twice; equal seeds generate equal samples")
        self.seeds = np.array(seeds, np.int64)

    def __len__(self) -> int:
        return len(self.seeds)

    def fetch(self, indices: np.ndarray, epoch: int) -> dict[str, Any]:
        """The batch at ``indices``: ``seed`` int64 [B] and ``id``, the seed as a string of at least 8 digits."""
        seeds = self.seeds[indices]
        return {"seed": torch.from_numpy(seeds), "id": [f"{seed:08d}" for seed in seeds.tolist()]}
