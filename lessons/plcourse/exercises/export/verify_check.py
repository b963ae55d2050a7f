"""The relations of `verify`."""

from typing import Any

import numpy as np

_TRAINED = np.random.default_rng(0).normal(0, 5, size=(2000, 4)).astype(np.float32)


def check_rounding(answer: Any) -> None:
    """Differences of rounding are forgiven, whatever the scale of the outputs."""
    for scale in (1e-3, 1.0, 1e4):
        trained = _TRAINED * np.float32(scale)
        noise = np.random.default_rng(1).uniform(-1e-6, 1e-6, size=trained.shape) * np.abs(trained).max()
        assert answer.same(trained, (trained + noise).astype(np.float32)), f"outputs up to {np.abs(trained).max():.3g}"


def check_one_wrong_sample(answer: Any) -> None:
    """One wrong sample among 2000 is enough to refuse."""
    exported = _TRAINED.copy()
    exported[1234] += 0.5
    assert not answer.same(_TRAINED, exported), "a sample that is off by 0.5 was let through"


def check_not_finite(answer: Any) -> None:
    """An output that is no number is refused."""
    for value in (np.nan, np.inf):
        exported = _TRAINED.copy()
        exported[7, 2] = value
        assert not answer.same(_TRAINED, exported), f"{value} was let through"


def check_shape(answer: Any) -> None:
    """Other shapes are refused, also where numpy could make them fit."""
    for exported in (_TRAINED[:1], _TRAINED[:, :1], _TRAINED[:, :, None], _TRAINED[:10]):
        constant = np.zeros_like(_TRAINED) if exported.shape[0] == 1 else _TRAINED
        assert not answer.same(constant, np.zeros_like(exported)), f"shape {exported.shape} was let through"
