"""Lesson 19: sampling from a language model, and measuring how much of a sample is memorized.

Temperature, top-k (Fan et al. 2018) and top-p (Holtzman et al. 2020, arXiv 1904.09751) reshape the distribution of the
next token before it is drawn. Each draw is a function of the run's seed, the sample's id and the position, so any
sample can be reproduced alone.

Shapes: B rows, T tokens of the prompt, V vocabulary.
"""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from plcourse.data import keys_of, uniforms
from plcourse.nlp.tokenizers import END, PAD, UNKNOWN, TextTokenizer


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; see `LanguageModel`. An argument out of range is a ValueError."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    top_p: float | None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} is below 1")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature} is not a number of 0 or more")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k={self.top_k} is below 1; use null for all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p} is not above 0 and at most 1; use null for all tokens")


@torch.inference_mode()
def continuations(
    network: nn.Module,
    prompt_BT: Tensor,
    ids: Sequence[str],
    seed: int,
    sampling: Sampling,
    size: int,
    show: TextTokenizer | None = None,
) -> Tensor:
    """Continues prompts until each has ended or has the maximum number of new tokens.

    Args:
        network: maps tokens and a state to scores and a state; ``context`` limits what it sees, None for no limit.
        prompt_BT: int64 [B, T], with the same number of tokens in every row.
        ids: B sample ids, which determine the draws.
        seed: the run's seed.
        sampling: how to draw.
        size: the tokenizer's size; the network may score more tokens.
        show: prints the first row, including its prompt, as it grows; None prints nothing.

    Returns:
        int64 [B, new tokens]; end tokens fill the rows that end early.
    """
    context = cast(int | None, network.context)
    keys, made_BT = keys_of(ids), prompt_BT
    ended_B = torch.zeros(len(prompt_BT), dtype=torch.bool, device=prompt_BT.device)
    printer = Printer(show)
    printer.write(prompt_BT[0, 1:].tolist())
    state, read = None, 0
    unread_BT = prompt_BT if context is None else prompt_BT[:, -context:]
    for step in range(sampling.max_new_tokens):
        if context is not None and read + unread_BT.shape[1] > context:
            # the cache of keys and values is full: restart from the last half context
            state, unread_BT, read = None, made_BT[:, -(context // 2) :], 0
        logits_BTV, state = network(unread_BT, state)
        read += unread_BT.shape[1]
        next_B = draw(probabilities(logits_BTV[:, -1, :size], sampling), uniforms(seed, step, keys, 1)[:, 0])
        next_B = torch.where(ended_B, END, next_B)
        ended_B |= next_B == END
        unread_BT = next_B[:, None]
        made_BT = torch.cat([made_BT, unread_BT], dim=1)
        printer.write(unread_BT[0].tolist())
        if ended_B.all():
            break
    printer.close()
    return made_BT[:, prompt_BT.shape[1] :]


def probabilities(logits_BV: Tensor, sampling: Sampling) -> Tensor:
    """The distribution of the next token, float64 [B, V]; padding and unknown have probability 0."""
    logits_BV = logits_BV.double().index_fill(1, torch.tensor([PAD, UNKNOWN], device=logits_BV.device), -math.inf)
    if sampling.temperature == 0:
        return torch.zeros_like(logits_BV).scatter_(1, logits_BV.argmax(dim=1, keepdim=True), 1.0)
    ranked_BV, order_BV = (logits_BV / sampling.temperature).sort(dim=1, descending=True, stable=True)
    kept_BV = ranked_BV.softmax(dim=1)
    if sampling.top_p is not None:  # keeps a token while the more likely ones have less than top_p
        before_BV = kept_BV.cumsum(dim=1) - kept_BV
        kept_BV = kept_BV.masked_fill(before_BV >= sampling.top_p, 0.0)
    if sampling.top_k is not None:
        kept_BV[:, sampling.top_k :] = 0.0
    return torch.zeros_like(kept_BV).scatter_(1, order_BV, kept_BV / kept_BV.sum(dim=1, keepdim=True))


def draw(probability_BV: Tensor, uniform_B: np.ndarray) -> Tensor:
    """Draws one token per row by inverse transform sampling, int64 [B]."""
    threshold_B1 = torch.from_numpy(uniform_B)[:, None].to(probability_BV.device)
    cumulative_BV = probability_BV.cumsum(dim=1)
    # scaled by the sum, which may differ from 1 by rounding; the token drawn always has a probability above 0
    beyond_BV = cumulative_BV > threshold_B1 * cumulative_BV[:, -1:]
    return beyond_BV.int().argmax(dim=1)


class Printer:
    """Prints a text as its tokens arrive.

    Args:
        tokenizer: decodes the tokens; None prints nothing.
    """

    def __init__(self, tokenizer: TextTokenizer | None) -> None:
        self._tokenizer = tokenizer
        self._tokens: list[int] = []
        self._written = 0  # characters

    def write(self, tokens: Sequence[int]) -> None:
        """Appends tokens; an incomplete character waits for its last byte."""
        if self._tokenizer is None or not tokens:
            return
        self._tokens += tokens
        text = self._tokenizer.decode(self._tokens)
        if not text.endswith("\N{REPLACEMENT CHARACTER}"):
            # generated text must not contain control sequences of the terminal
            sys.stdout.write("".join(c if c.isprintable() or c in "\n\t" else "?" for c in text[self._written :]))
            sys.stdout.flush()
            self._written = len(text)

    def close(self) -> None:
        """Ends the line."""
        if self._tokenizer is not None:
            sys.stdout.write("\n\n")
            sys.stdout.flush()


def describe(text: str, prompt: str, training_text: str | None) -> dict[str, float | int | None]:
    """Measures how varied a continuation is, and how much of it is copied from the training text.

    Args:
        text: the continuation.
        prompt: its prompt.
        training_text: the training part; None if unavailable.

    Returns:
        ``distinct_1`` to ``distinct_3``, the fraction of distinct n-grams of words (Li et al. 2016, arXiv 1510.03055);
        ``repetition``, the fraction of four-word sequences that occurred before; ``copied``, the characters of the
        longest span that is also in the training text, None without it; ``characters`` and ``prompt_characters``.
    """
    words = text.split()
    distinct = {}
    for n in (1, 2, 3, 4):
        ngrams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        distinct[n] = len(set(ngrams)) / len(ngrams) if ngrams else None
    return {
        **{f"distinct_{n}": distinct[n] or 0.0 for n in (1, 2, 3)},
        "repetition": 0.0 if distinct[4] is None else 1 - distinct[4],
        "copied": None if training_text is None else len(longest_copy(text, training_text)),
        "characters": len(text),
        "prompt_characters": len(prompt),
    }


def longest_copy(text: str, training_text: str) -> str:
    """The longest span of `text` that is also in `training_text`; the first of several."""
    best, start = 0, 0
    for i in range(len(text)):
        while i + best < len(text) and text[i : i + best + 1] in training_text:
            best, start = best + 1, i
    return text[start : start + best]
