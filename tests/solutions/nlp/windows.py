"""A solution of the exercise nlp/windows."""

from torch import Tensor


def n_windows(length: int, block: int) -> int:
    """How many windows a text of `length` tokens has: every start whose input and target lie within it."""
    return length - block


def window(token_N: Tensor, start: int, block: int) -> tuple[Tensor, Tensor]:
    """Input and target of one window, both of shape [block]: at each place the target is the token that comes next.

    Args:
        token_N: int64 [N], the text.
        start: from 0, below `n_windows`.
        block: tokens of the input, 1 or more.
    """
    return token_N[start : start + block], token_N[start + 1 : start + block + 1]
