"""Windows of a text for a language model.

The loss drops to zero within a few steps, and the samples repeat one letter. Now and then the loader also fails at the
end of the text. Fix both.
"""

import torch
from torch import Tensor


def n_windows(length: int, block: int) -> int:
    """Counts the windows of a text of `length` tokens: every start whose input and target fit into the text."""
    return length


def window(token_N: Tensor, start: int, block: int) -> tuple[Tensor, Tensor]:
    """Returns input and target of one window, both [block]; the target at each position is the next token.

    Args:
        token_N: the text, int64 [N].
        start: the first position, from 0 to below `n_windows`.
        block: tokens per window, 1 or more.
    """
    piece = token_N[start : start + block]
    return piece, torch.clone(piece)
