"""A solution of the exercise nlp/windows."""

from torch import Tensor


def n_windows(length: int, block: int) -> int:
    """Counts the windows of a text of `length` tokens: every start whose input and target fit into the text."""
    return length - block


def window(token_N: Tensor, start: int, block: int) -> tuple[Tensor, Tensor]:
    """Returns input and target of one window, both [block]; the target at each position is the next token.

    Args:
        token_N: the text, int64 [N].
        start: the first position, from 0 to below `n_windows`.
        block: tokens per window, 1 or more.
    """
    return token_N[start : start + block], token_N[start + 1 : start + block + 1]
