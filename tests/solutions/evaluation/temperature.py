"""A solution of the exercise evaluation/temperature."""

import torch
from torch import Tensor
from torch.nn import functional


def calibrated(
    val_logit_NK: Tensor, val_label_N: Tensor, test_logit_MK: Tensor, test_label_M: Tensor
) -> tuple[float, Tensor]:
    """Returns the temperature, and the probabilities of the test split scaled by it.

    Args:
        val_logit_NK: logits of the validation split, float64 [N, K].
        val_label_N: its labels, int64 [N].
        test_logit_MK: logits of the test split, float64 [M, K].
        test_label_M: its labels, int64 [M].
    """
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(val_logit_NK / log_temperature.exp(), val_label_N)
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]  (torch types a closure as one of floats)
    temperature = float(log_temperature.exp())
    return temperature, (test_logit_MK / temperature).softmax(dim=1)
