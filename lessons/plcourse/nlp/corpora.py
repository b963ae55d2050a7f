"""The texts that a language model reads: the reviews of a split one after the other, or one long text cut in three."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from plcourse.data.lines import read_lines, read_text
from plcourse.data.provenance import Identities
from plcourse.data.randoms import keys_of
from plcourse.errors import UserError
from plcourse.nlp.parts import TextSplits
from plcourse.nlp.streams import Stream
from plcourse.nlp.tokenizers import END, Kind, TextTokenizer, check_known, fit_tokenizer, load_tokenizer, report_unknown

PARTS = ("train", "val", "test")
_PIECE = 64  # characters that are recognised together


class OneText:
    """One text, cut into training, validation and test part in this order; it has the methods of `TextSplits`.

    Args:
        path: a UTF-8 file.
        val_size: characters (int) or fraction (float below 1) of the validation part.
        test_size: the same for the test part, which is the end of the text.
        tokenizer: ``characters``, ``words`` or ``bpe``.
        vocab_size: the largest number of tokens.
    """

    label_names: list[str] | None = None

    def __init__(
        self, path: str, val_size: int | float, test_size: int | float, tokenizer: Kind, vocab_size: int
    ) -> None:
        self.path, self.val_size, self.test_size = path, val_size, test_size
        self.kind: Kind = tokenizer
        self.vocab_size = vocab_size
        self._restored: dict[str, Any] | None = None

    def open(self) -> None:
        """Reads and cuts the text now instead of at its first use, so that errors come early."""
        _ = self._cut

    @cached_property
    def _cut(self) -> dict[str, str]:
        text = read_text(self.path)
        n = len(text)
        val, test = (round(size * n) if isinstance(size, float) else size for size in (self.val_size, self.test_size))
        if min(val, test) < 0 or val + test >= n:
            raise UserError(
                f"'{self.path}' has {n} characters, but val_size={val} and test_size={test} leave none to train on"
            )
        return {"train": text[: n - val - test], "val": text[n - val - test : n - test], "test": text[n - test :]}

    @property
    def sizes(self) -> dict[str, int]:
        """Characters of each part: ``n_train``, ``n_val`` and ``n_test``."""
        return {f"n_{name}": len(text) for name, text in self._cut.items()}

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The checkpoint's, or one fitted to the training part."""
        if self._restored is not None:
            return load_tokenizer(self._restored["tokenizer"])
        return fit_tokenizer(self.kind, self.texts("train"), self.vocab_size)

    def texts(self, part: str) -> list[str]:
        """The text of a part, as a list of one.

        Raises:
            UserError: the part is empty.
        """
        if not self._cut[part]:
            raise UserError(f"the {part} part of '{self.path}' is empty; give --data.init_args.{part}_size")
        return [self._cut[part]]

    def identities(self, part: str) -> Identities:
        """The hashes of a part's pieces of 64 characters, each together with its position in the text.

        They recognise the text under another name, with other sizes of its parts, and after something was appended to
        it, but not behind a place where something was inserted.
        """
        cut = self._cut
        first = sum(len(cut[name]) for name in PARTS[: PARTS.index(part)])
        end = first + len(cut[part])
        text = "".join(cut[name] for name in PARTS)
        pieces = range(-(-first // _PIECE) * _PIECE, end - _PIECE + 1, _PIECE)
        hashes = keys_of([f"{start} {text[start : start + _PIECE]}" for start in pieces])
        return Identities(hashes, [f"characters {start:,} to {start + _PIECE:,}" for start in pieces])

    @property
    def terms(self) -> dict[str, Any]:
        """How the text is cut, in plain types."""
        return {"path": self.path, "val_size": self.val_size, "test_size": self.test_size}

    def state_dict(self) -> dict[str, Any]:
        """The tokenizer, in plain types."""
        return {"tokenizer": self.tokenizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the tokenizer of a checkpoint."""
        self._restored = state
        self.__dict__.pop("tokenizer", None)


def stream_of(parts: TextSplits | OneText, part: str) -> Stream:
    """The tokens of all texts of a part, one text after the other."""
    stream = Stream(parts.texts(part), parts.tokenizer, parts.identities(part))
    report_unknown(parts.tokenizer, [stream.tokens], part)
    return stream


class Prompts:
    """Prompts to continue, one per batch and repeated S times: ``text`` int64 [S, T], ``prompt`` and ``id``.

    Args:
        prompts: the name and the text of each prompt; the model itself begins after an empty text.
        samples: continuations of each, S.
        tokenizer: the model's.

    Raises:
        UserError: a character that the training text does not have.
    """

    def __init__(self, prompts: Sequence[tuple[str, str]], samples: int, tokenizer: TextTokenizer) -> None:
        for name, prompt in prompts:
            check_known(tokenizer, prompt, f"the prompt {name}")
        self._names, self._prompts = [name for name, _ in prompts], [prompt for _, prompt in prompts]
        self._samples = samples
        self._tokens = [np.concatenate([[END], each]).astype(np.int64) for each in tokenizer.encode(self._prompts)]

    def __len__(self) -> int:
        return len(self._prompts)

    def fetch(self, indices: np.ndarray, epoch: int) -> dict[str, Any]:
        """The prompt at `indices` (int64 [1])."""
        (index,) = indices.tolist()
        tokens_ST = torch.from_numpy(self._tokens[index]).expand(self._samples, -1)
        return {
            "text": tokens_ST,
            "prompt": [self._prompts[index]] * self._samples,
            "id": [f"{self._names[index]}/{sample:03d}" for sample in range(self._samples)],
        }


def read_prompts(prompts: Sequence[str] | None, path: str | None) -> list[tuple[str, str]]:
    """Name and text of the given prompts and of those in a file, one per line; one empty prompt if there are none."""
    given = [(f"prompt/{i:04d}", prompt) for i, prompt in enumerate(prompts or ())]
    lines = [(f"line/{number:05d}", line) for number, line in read_lines(path)] if path is not None else []
    return [*given, *lines] or [("prompt/0000", "")]
