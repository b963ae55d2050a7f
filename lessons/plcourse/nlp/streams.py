"""Lesson 19: what a language model reads: a stream of tokens, cut into windows in three ways, and prompts.

Shuffled windows suit a network without memory. *Tracks* suit a recurrent one: the stream is cut into as many tracks as
a batch has rows, and each step takes the next window of every track, so each step continues from the state of the last
(truncated backpropagation through time, Williams and Peng 1990). Evaluation scores every token once, after context
tokens that are read but not scored, so its sum does not depend on batches or processes.

Shapes: B rows of a batch, L tokens of a window, C tokens of context, S continuations of a prompt, T tokens of it.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from plcourse.data import uniforms
from plcourse.data.lines import read_lines
from plcourse.data.provenance import Identities
from plcourse.errors import UserError
from plcourse.nlp.splits import OneText, TextSplits
from plcourse.nlp.tokenizers import END, PAD, TextTokenizer, check_known, report_unknown

NOT_SCORED = -100  # the target that torch's cross-entropy ignores
_PHASE_KEY = np.zeros(1, np.uint64)


class Stream:
    """The concatenated tokens of texts, with an end token before each and after the last.

    A single text has no end token after it: exactly its characters are scored. The attribute `tokens` is int32 [N].
    """

    def __init__(self, texts: Sequence[str], tokenizer: TextTokenizer, identities: Identities | None = None) -> None:
        self.identities = identities
        self._texts, self._tokenizer = texts, tokenizer
        self.tokens = self._joined(tokenizer.encode(texts), END)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def characters(self) -> np.ndarray:
        """The number of characters of each token, int32 [N]; 0 for an end token."""
        return self._joined([self._tokenizer.lengths(text) for text in self._texts], 0)

    def _joined(self, parts: Sequence[np.ndarray], between: int) -> np.ndarray:
        edge = np.array([between], np.int32)
        joined = [edge, *(each for part in parts for each in (part, edge))]
        return np.concatenate(joined[:-1] if len(parts) == 1 else joined)


def stream_of(splits: TextSplits | OneText, part: str) -> Stream:
    """The tokens of all texts of a part, one text after the other."""
    stream = Stream(splits.texts(part), splits.tokenizer, splits.identities(part))
    report_unknown(splits.tokenizer, [stream.tokens], part)
    return stream


class TrainWindows:
    """Adjacent windows of L tokens: ``text`` and ``target`` int64 [B, L], each target the next token.

    Each epoch starts at a random one of the first L tokens, so no token is always at the edge of a window.

    Raises:
        UserError: the stream is shorter than two windows.
    """

    def __init__(self, stream: Stream, length: int, seed: int) -> None:
        self.identities = stream.identities
        self._tokens, self.length, self._seed = torch.from_numpy(stream.tokens.astype(np.int64)), length, seed
        if len(self) < 1:
            raise UserError(
                f"the training text has {len(stream)} tokens, fewer than two windows of {length}; use a longer text "
                "or a smaller --data.init_args.block_size"
            )

    def __len__(self) -> int:
        return (len(self._tokens) - self.length) // self.length

    def fetch(self, indices: np.ndarray, epoch: int) -> dict[str, Any]:
        """The windows at `indices` (int64 [B])."""
        phase = int(uniforms(self._seed, epoch, _PHASE_KEY, 1)[0, 0] * self.length)
        start_B1 = torch.from_numpy(indices)[:, None] * self.length + phase
        place_BL = start_B1 + torch.arange(self.length)
        return {"text": self._tokens[place_BL], "target": self._tokens[place_BL + 1]}


class TrackSampler:
    """Takes window t of every track in step t, of n windows; each process has `batch_size` tracks.

    The seed is only compared on resuming.

    Raises:
        UserError: there are fewer windows than tracks.
    """

    def __init__(self, n: int, batch_size: int, seed: int = 0, rank: int = 0, world_size: int = 1) -> None:
        self.seed, self.global_batch_size = seed, batch_size * world_size
        self._steps = n // self.global_batch_size
        if self._steps < 1:
            raise UserError(
                f"{n} windows are too few for {self.global_batch_size} tracks; use a longer text, a smaller "
                "batch_size or a smaller block_size"
            )
        self.n = self._steps * self.global_batch_size
        self._first = (np.arange(batch_size, dtype=np.int64) + rank * batch_size) * self._steps

    def __len__(self) -> int:
        return self._steps

    def rank_weight(self, batch_index: int) -> float:
        """Always 1, since all processes have the same number of tracks."""
        return 1.0

    def samples(self, first: int, end: int) -> int:
        """The number of windows in batches `first` to `end` - 1 over all processes."""
        return (end - first) * self.global_batch_size

    def batches(self, epoch: int, start: int = 0) -> Iterator[np.ndarray]:
        """The windows of each step from step `start` on, int64 [B]."""
        for step in range(start, self._steps):
            yield self._first + step


class EvalWindows:
    """Windows that score every token except the first exactly once.

    Batches have ``text``, ``target`` and the ``characters`` of each target, integers [B, C + L], and ``id``, which
    begins with the `name` of the part. Targets in the context or the padding are `NOT_SCORED`; the first windows have
    less context.
    """

    def __init__(self, stream: Stream, length: int, context: int, name: str) -> None:
        self.identities = stream.identities
        self._stream, self._length, self._context, self._name = stream, length, context, name

    def __len__(self) -> int:
        return -(-(len(self._stream) - 1) // self._length)

    def fetch(self, indices: np.ndarray, epoch: int) -> dict[str, Any]:
        """The windows at `indices` (int64 [B]), the same in every epoch."""
        tokens, last = self._stream.tokens, len(self._stream) - 1
        first_B1 = indices[:, None] * self._length
        place_BT = np.maximum(first_B1 - self._context, 0) + np.arange(self._context + self._length)
        read_BT = place_BT < np.minimum(first_B1 + self._length, last)
        scored_BT = read_BT & (place_BT >= first_B1)
        place_BT = np.minimum(place_BT, last - 1)
        target_BT = np.where(scored_BT, tokens[place_BT + 1], NOT_SCORED)
        return {
            "text": torch.from_numpy(np.where(read_BT, tokens[place_BT], PAD)).long(),
            "target": torch.from_numpy(target_BT).long(),
            "characters": torch.from_numpy(self._stream.characters[place_BT + 1] * scored_BT),
            "id": [f"{self._name}/{index:06d}" for index in indices.tolist()],
        }


class Prompts:
    """Prompts to continue, one per batch and repeated S times: ``text`` int64 [S, T], ``prompt`` and ``id``.

    Each prompt is given by its name and its text; after an empty text, the model begins.

    Raises:
        UserError: a prompt has a character that the training text does not have.
    """

    def __init__(self, prompts: Sequence[tuple[str, str]], samples: int, tokenizer: TextTokenizer) -> None:
        for name, prompt in prompts:
            check_known(tokenizer, prompt, f"the prompt {name}")
        self._prompts, self._samples, self._tokenizer = prompts, samples, tokenizer

    def __len__(self) -> int:
        return len(self._prompts)

    def fetch(self, indices: np.ndarray, epoch: int) -> dict[str, Any]:
        """The prompt at `indices` (int64 [1])."""
        name, prompt = self._prompts[indices.item()]
        tokens_T = torch.tensor([END, *self._tokenizer.encode([prompt])[0].tolist()])
        return {
            "text": tokens_T.expand(self._samples, -1),
            "prompt": [prompt] * self._samples,
            "id": [f"{name}/{sample:03d}" for sample in range(self._samples)],
        }


def read_prompts(prompts: Sequence[str] | None, path: str | None) -> list[tuple[str, str]]:
    """Name and text of the given prompts and of those in a file, one per line; one empty prompt if there are none."""
    given = [(f"prompt/{i:04d}", prompt) for i, prompt in enumerate(prompts or ())]
    lines = [(f"line/{number:05d}", line) for number, line in read_lines(path)] if path is not None else []
    return [*given, *lines] or [("prompt/0000", "")]
