"""Counter-based random numbers: a draw is a function of (seed, epoch, sample, counter) and of nothing else.

The draws of a generator with a state change with the number of workers, the rank, the batch size and the point where a
run was resumed. Here each draw is computed from its coordinates, so that none of these matters (Salmon et al. 2011,
"Parallel Random Numbers: As Easy as 1, 2, 3"). The mixing function is SplitMix64's (Steele, Lea and Flood 2014, "Fast
Splittable Pseudorandom Number Generators", figure 15), with the finalizer that they call variant 13.

Shape suffixes: B samples of a batch, N draws per sample.
"""

import hashlib
import os
from collections.abc import Iterable

import numpy as np
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # the odd number nearest 2**64 over the golden ratio: SplitMix64's step
_MASK = (1 << 64) - 1
_PERMUTATION = 0x7065726D  # makes the order of an epoch independent of the draws for its samples


def mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer, a bijection of uint64 integers in which every input bit affects every output bit."""
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def stream(*coordinates: int) -> np.ndarray:
    """One 64-bit key, as a uint64 array of shape [1], for a short list of integers of any sign."""
    key = np.zeros(1, np.uint64)
    for coordinate in coordinates:
        key = mix((key + _GOLDEN) ^ np.uint64(coordinate & _MASK))
    return key


def uniforms(seed: int, epoch: int, ids: np.ndarray, n: int) -> np.ndarray:
    """Uniform draws for the samples of a batch.

    Args:
        seed: the run's seed.
        epoch: counted from 0.
        ids: uint64 [B], one key per sample (see `keys_of`).
        n: draws per sample.

    Returns:
        float64 [B, N] in [0, 1), multiples of 2**-53. Row b depends only on (seed, epoch, ids[b]).
    """
    key_B1 = mix(stream(seed, epoch) ^ mix(ids.astype(np.uint64, copy=False) + _GOLDEN))[:, None]
    counter_N = np.arange(1, n + 1, dtype=np.uint64) * _GOLDEN
    return (mix(key_B1 + counter_N) >> np.uint64(11)) * 2.0**-53


def normals(seed: int, epoch: int, ids: np.ndarray, n: int) -> np.ndarray:
    """Standard normal draws, float64 [B, N], by the transform of Box and Muller (1958); see `uniforms`."""
    half = (n + 1) // 2
    uniform_BN = uniforms(seed, epoch, ids, 2 * half)
    radius_BH = np.sqrt(-2 * np.log1p(-uniform_BN[:, :half]))  # 1 - u is in (0, 1]
    angle_BH = 2 * np.pi * uniform_BN[:, half:]
    return np.concatenate([radius_BH * np.cos(angle_BH), radius_BH * np.sin(angle_BH)], axis=1)[:, :n]


def keys_of(ids: Iterable[object]) -> np.ndarray:
    """The 64-bit key of each sample id, uint64, the same on every machine and in every process.

    Ids are names or integers, in a list, an array or a tensor. An array needs no Python object per id.
    """
    if isinstance(ids, Tensor):
        ids = ids.cpu().numpy()
    elif not isinstance(ids, np.ndarray):
        ids = list(ids)
        ids = np.asarray(ids) if ids and isinstance(ids[0], int) else ids
    if isinstance(ids, np.ndarray) and ids.dtype.kind in "iu":
        return mix(ids.astype(np.uint64) + _GOLDEN)
    digests = b"".join(hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in ids)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order in which an epoch visits its samples: int64 [n], a permutation of 0..n-1.

    The positions are sorted by mixed keys, which are distinct because `mix` is a bijection. NumPy's generators may
    change between releases (NEP 19); this order does not, so that a checkpoint resumes on another installation.
    """
    counters = np.arange(1, n + 1, dtype=np.uint64) * _GOLDEN
    return np.argsort(mix(stream(_PERMUTATION, seed, epoch) + counters)).astype(np.int64, copy=False)


def run_seed() -> int:
    """The seed that `seed_everything` left in the environment, 0 where nothing was seeded."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))
