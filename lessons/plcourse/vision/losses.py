r"""The loss of the masks per sample, and the weighted sum of both tasks' losses.

Fixed weights give :math:`L = w_c L_c + w_m L_m`. Learned weights (Kendall et al. 2018, equation 7, arXiv 1705.07115)
treat each task's noise :math:`\sigma_i` as a parameter, here :math:`s_i = \log \sigma_i^2`:

.. math:: L = \sum_i e^{-s_i} w_i L_i + \tfrac{1}{2} s_i

Shape suffixes: B samples, M pixel classes, H height, W width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from plcourse.data.masks import IGNORE

_SMOOTH = 1.0  # pixels; gives a class that is neither present nor predicted a loss of 0


def mask_loss(scores_BMHW: Tensor, mask_BHW: Tensor, dice_weight: float = 1.0) -> Tensor:
    """Pixel cross-entropy plus ``dice_weight`` times soft Dice, per sample [B]; `IGNORE` pixels count in neither."""
    known_BHW = mask_BHW != IGNORE
    pixels_BHW = functional.cross_entropy(scores_BMHW, mask_BHW, reduction="none", ignore_index=IGNORE)
    entropy_B = pixels_BHW.sum(dim=(1, 2)) / known_BHW.sum(dim=(1, 2)).clamp_min(1)
    if not dice_weight:
        return entropy_B
    return entropy_B + dice_weight * soft_dice_loss(scores_BMHW, mask_BHW, known_BHW)


def soft_dice_loss(scores_BMHW: Tensor, mask_BHW: Tensor, known_BHW: Tensor) -> Tensor:
    """One minus the soft Dice coefficient (Milletari et al. 2016, section 3, without its squares), [B].

    It is the mean over all classes except class 0, which covers most of the image and would dominate.
    """
    probability_BMHW = scores_BMHW.softmax(dim=1)
    losses = []
    for mask_class in range(1, scores_BMHW.shape[1]):
        predicted_BHW = probability_BMHW[:, mask_class] * known_BHW
        true_BHW = (mask_BHW == mask_class).to(predicted_BHW.dtype)
        both_B = (predicted_BHW * true_BHW).sum(dim=(1, 2))
        sum_B = predicted_BHW.sum(dim=(1, 2)) + true_BHW.sum(dim=(1, 2))
        losses.append(1 - (2 * both_B + _SMOOTH) / (sum_B + _SMOOTH))
    return torch.stack(losses).mean(dim=0)


class TaskWeights(nn.Module):
    """Sums the losses of tasks with fixed or learned weights.

    Args:
        weights: the fixed weight of each task, above 0.
        learned: whether to learn each task's noise too; the fixed weights then only scale the losses.
    """

    def __init__(self, weights: Mapping[str, float], learned: bool = False) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.log_variance = nn.Parameter(torch.zeros(len(weights))) if learned else None

    def forward(self, losses: Mapping[str, Tensor]) -> Tensor:
        """The loss to minimize, from one loss per task, of any shape."""
        total = torch.zeros(())
        for i, (task, weight) in enumerate(self.weights.items()):
            if self.log_variance is None:
                total = total + weight * losses[task]
            else:
                total = total + (-self.log_variance[i]).exp() * weight * losses[task] + self.log_variance[i] / 2
        return total

    def logged(self) -> dict[str, Tensor]:
        """The current weight of each task by metric name; empty for fixed weights."""
        if self.log_variance is None:
            return {}
        factors = (-self.log_variance.detach()).exp()
        return {f"train/weight_{task}": factors[i] * weight for i, (task, weight) in enumerate(self.weights.items())}
