"""Checks `verify`."""

from types import ModuleType

import numpy as np

_TRAINED = np.random.default_rng(0).normal(0, 5, size=(2000, 4)).astype(np.float32)


def check_rounding(answer: ModuleType) -> None:
    """Rounding differences are accepted at any scale of the outputs."""
    for scale in (1e-3, 1.0, 1e4):
        trained = _TRAINED * np.float32(scale)
        noise = np.random.default_rng(1).uniform(-1e-6, 1e-6, size=trained.shape) * np.abs(trained).max()
        accepted = answer.same(trained, (trained + noise).astype(np.float32))
        assert accepted, f"rounding differences of outputs up to {np.abs(trained).max():.3g} were rejected"


def check_one_wrong_sample(answer: ModuleType) -> None:
    """One wrong sample among 2000 is enough to reject the file."""
    exported = _TRAINED.copy()
    exported[1234] += 0.5
    assert not answer.same(_TRAINED, exported), "a sample that is off by 0.5 was accepted"


def check_not_finite(answer: ModuleType) -> None:
    """NaN and infinite outputs are rejected."""
    for value in (np.nan, np.inf):
        exported = _TRAINED.copy()
        exported[7, 2] = value
        assert not answer.same(_TRAINED, exported), f"{value} was accepted"


def check_shape(answer: ModuleType) -> None:
    """Other shapes are rejected, even if NumPy could broadcast them."""
    for exported in (_TRAINED[:1], _TRAINED[:, :1], _TRAINED[:, :, None], _TRAINED[:10]):
        constant = np.zeros_like(_TRAINED) if exported.shape[0] == 1 else _TRAINED
        assert not answer.same(constant, np.zeros_like(exported)), f"shape {exported.shape} was accepted"
