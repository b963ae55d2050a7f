"""Checks `temperature`."""

from types import ModuleType

import torch
from torch import Tensor


def _data(scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draws labels from logits, and returns the logits multiplied by `scale`."""
    calibrated = [2 * torch.randn(n, 4, dtype=torch.float64) for n in (4000, 300)]
    labels = [torch.multinomial(each.softmax(dim=1), 1).squeeze(1) for each in calibrated]
    return calibrated[0] * scale, labels[0], calibrated[1] * scale, labels[1]


def check_test_labels(answer: ModuleType) -> None:
    """The labels of the test split do not change the temperature."""
    val, val_label, test, test_label = _data(3.0)
    found, _ = answer.calibrated(val, val_label, test, test_label)
    shuffled, _ = answer.calibrated(val, val_label, test, (test_label + 1) % 4)
    assert found == shuffled, f"other test labels change it from {found:.3f} to {shuffled:.3f}"


def check_temperature(answer: ModuleType) -> None:
    """If the logits are 3 times too large, the temperature is about 3."""
    for scale in (3.0, 0.5):
        found, _ = answer.calibrated(*_data(scale))
        assert abs(found / scale - 1) < 0.1, f"logits {scale:g} times too large: the temperature is {found:.3f}"


def check_probabilities(answer: ModuleType) -> None:
    """The probabilities sum to 1, and the predicted classes do not change."""
    val, val_label, test, test_label = _data(3.0)
    _, probability = answer.calibrated(val, val_label, test, test_label)
    assert probability.shape == test.shape, f"their shape is {tuple(probability.shape)}, not {tuple(test.shape)}"
    assert torch.allclose(probability.sum(dim=1), torch.ones(len(test), dtype=torch.float64)), "they do not sum to 1"
    assert torch.equal(probability.argmax(dim=1), test.argmax(dim=1)), "the predicted class of some samples changed"
