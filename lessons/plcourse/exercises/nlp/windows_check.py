"""Checks `windows`."""

from types import ModuleType

import torch

_TEXT = torch.randperm(40, generator=torch.Generator().manual_seed(0))


def check_next(answer: ModuleType) -> None:
    """The target at each position is the token after the input token."""
    for start in (0, 5, 20):
        given, target = answer.window(_TEXT, start, 8)
        assert torch.equal(given, _TEXT[start : start + 8]), f"the input at {start} is not the text from there on"
        assert torch.equal(target, _TEXT[start + 1 : start + 9]), f"the target at {start} is not the next token"


def check_all_fit(answer: ModuleType) -> None:
    """Every window has full length, including the last one."""
    for length, block in ((40, 8), (9, 8), (40, 1)):
        count = answer.n_windows(length, block)
        assert count >= 1, f"{length} tokens have no window of {block} tokens"
        sizes = {tuple(map(len, answer.window(_TEXT[:length], start, block))) for start in range(count)}
        assert sizes == {(block, block)}, f"{length} tokens, windows of {block}: some have the sizes {sorted(sizes)[0]}"


def check_none_is_lost(answer: ModuleType) -> None:
    """Every token but the first is a target of some window."""
    for length, block in ((40, 8), (9, 8), (13, 3)):
        text = _TEXT[:length]
        count = min(answer.n_windows(length, block), length)
        seen = {int(each) for start in range(count) for each in answer.window(text, start, block)[1]}
        missed = set(text[1:].tolist()) - seen
        assert not missed, f"{length} tokens, windows of {block}: {len(missed)} tokens are never a target"
