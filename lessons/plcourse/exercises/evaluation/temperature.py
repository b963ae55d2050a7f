"""Temperature scaling (Guo et al. 2017): one number that makes a classifier's confidence honest.

This function is called for the calibrated probabilities of the test part. The calibration error that follows looks
wonderful, and is not what new data give. Find out why, and mend it.
"""

import torch
from torch import Tensor
from torch.nn import functional


def calibrated(
    val_logit_NK: Tensor, val_label_N: Tensor, test_logit_MK: Tensor, test_label_M: Tensor
) -> tuple[float, Tensor]:
    """The temperature, and the probabilities of the test part with it.

    Args:
        val_logit_NK: of the validation part, float64 [N, K].
        val_label_N: int64 [N].
        test_logit_MK: of the test part, float64 [M, K].
        test_label_M: int64 [M].
    """
    log_temperature = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_temperature], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = functional.cross_entropy(test_logit_MK / log_temperature.exp(), test_label_M)
        loss.backward()
        return loss

    optimizer.step(closure)  # pyright: ignore[reportArgumentType]  (torch types a closure as one of floats)
    temperature = float(log_temperature.exp())
    return temperature, (test_logit_MK / temperature).softmax(dim=1)
