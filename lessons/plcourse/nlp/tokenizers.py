"""Lesson 19: tokenizers for characters, words and byte pairs.

A tokenizer is fitted to the training part alone and saved with the model: in the checkpoint as plain types, in the run
folder as `tokenizer.json`. The first three tokens are always padding, unknown, and the end of a text, which also
precedes the first token of a text.

The tokenizers library splits words and merges byte pairs (Sennrich et al. 2016, arXiv 1508.07909, algorithm 1).
Characters need only a sorted table, which numpy searches faster.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from plcourse.console import say
from plcourse.errors import UserError
from plcourse.files import write_text

Kind = Literal["characters", "words", "bpe"]
PAD, UNKNOWN, END = 0, 1, 2
SPECIALS = ("<pad>", "<unk>", "<end>")
_SAMPLE = 1000  # texts, and characters per text, examined for their script
# Thai and Lao, Burmese, Khmer, kana, Chinese characters
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]")
_MANY = 0.2  # from this fraction of unknown tokens on, another tokenizer is recommended


class CharacterTokenizer:
    """One token per character (Unicode code point).

    Args:
        symbols: the known characters; the first is token 3.
    """

    kind: Kind = "characters"

    def __init__(self, symbols: str) -> None:
        self.symbols = symbols
        points = _code_points(symbols)
        self._order = np.argsort(points)
        self._sorted = points[self._order]

    @classmethod
    def fit(cls, texts: Sequence[str], vocab_size: int) -> "CharacterTokenizer":
        """Takes the most frequent characters, in the order of their code points."""
        counts: Counter[str] = Counter()
        for text in texts:
            counts.update(text)
        frequent = sorted(counts, key=lambda symbol: (-counts[symbol], symbol))[: vocab_size - len(SPECIALS)]
        return cls("".join(sorted(frequent)))

    @property
    def size(self) -> int:
        """The number of tokens, including the three special ones."""
        return len(self.symbols) + len(SPECIALS)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the tokens of each text, int32 [T], without an end token."""
        return [self._tokens(_code_points(text)) for text in texts]

    def _tokens(self, points: np.ndarray) -> np.ndarray:
        place = np.minimum(np.searchsorted(self._sorted, points), len(self._sorted) - 1)
        known = self._sorted[place] == points
        return np.where(known, self._order[place] + len(SPECIALS), UNKNOWN).astype(np.int32)

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens, without padding and ends; an unknown character becomes U+FFFD."""
        first = len(SPECIALS)
        return "".join(
            self.symbols[token - first] if token >= first else "\N{REPLACEMENT CHARACTER}"
            for token in map(int, tokens)
            if token not in (PAD, END)
        )

    def lengths(self, text: str) -> np.ndarray:
        """Returns the number of characters of each token of `text`, int32 [T]; their sum is the text's length."""
        return np.ones(len(text), np.int32)

    def state_dict(self) -> dict[str, str]:
        """Returns the tokenizer as plain types, for `load_tokenizer`."""
        return {"kind": self.kind, "symbols": self.symbols}


class SubwordTokenizer:
    """Words or byte pairs, by the tokenizers library; its methods are those of `CharacterTokenizer`.

    Args:
        kind: ``words`` (lower case, the `vocab_size` most frequent) or ``bpe`` (lossless for any text).
        inner: the library's tokenizer.
    """

    def __init__(self, kind: Kind, inner: Tokenizer) -> None:
        self.kind: Kind = kind
        self._inner = inner

    @classmethod
    def fit(cls, texts: Sequence[str], vocab_size: int, kind: Kind) -> "SubwordTokenizer":
        """Counts words, or merges the most frequent pairs until there are `vocab_size` tokens."""
        shared: Any = {"vocab_size": vocab_size, "special_tokens": list(SPECIALS), "show_progress": False}
        if kind == "words":
            inner = Tokenizer(models.WordLevel(unk_token=SPECIALS[UNKNOWN]))
            without_tags = normalizers.Replace(Regex("<[^>]{1,20}>"), " ")
            inner.normalizer = normalizers.Sequence([without_tags, normalizers.Lowercase()])
            inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"\w+(?:'\w+)?|[^\w\s]"), "removed", invert=True)
            trainer = trainers.WordLevelTrainer(min_frequency=2, **shared)
        else:
            inner = Tokenizer(models.BPE(unk_token=None))
            inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            inner.decoder = decoders.ByteLevel()
            trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **shared)
        inner.train_from_iterator(texts, trainer, length=len(texts))
        return cls(kind, inner)

    @property
    def size(self) -> int:
        """The number of tokens, including the three special ones."""
        return self._inner.get_vocab_size()

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """See `CharacterTokenizer`."""
        encodings = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(each.ids, np.int32) for each in encodings]

    def decode(self, tokens: Sequence[int]) -> str:
        """See `CharacterTokenizer`; an unknown word becomes ``<unk>``."""
        kept = [token for token in map(int, tokens) if token not in (PAD, END)]
        return self._inner.decode(kept, skip_special_tokens=False)

    def lengths(self, text: str) -> np.ndarray:
        """See `CharacterTokenizer`; characters between two words count with the second word."""
        ends = np.array([end for _, end in self._inner.encode(text, add_special_tokens=False).offsets], np.int32)
        if len(ends):
            ends = np.maximum.accumulate(ends)
            ends[-1] = len(text)
        return np.diff(ends, prepend=0).astype(np.int32)

    def state_dict(self) -> dict[str, str]:
        """See `CharacterTokenizer`."""
        return {"kind": self.kind, "json": self._inner.to_str()}


TextTokenizer = CharacterTokenizer | SubwordTokenizer


def fit_tokenizer(kind: Kind, texts: Sequence[str], vocab_size: int) -> TextTokenizer:
    """Fits a tokenizer of at most `vocab_size` tokens, including the special ones, to the training texts.

    Raises:
        ValueError: the kind is unknown or the size too small for it.
    """
    least = {"characters": len(SPECIALS) + 1, "words": len(SPECIALS) + 1, "bpe": len(SPECIALS) + 256}
    if kind not in least:
        raise ValueError(f"tokenizer={kind!r} is unknown; choose {', '.join(least)}")
    if vocab_size < least[kind]:
        raise ValueError(f"vocab_size={vocab_size} is too small; {kind} need {least[kind]} or more")
    if kind == "characters":
        return CharacterTokenizer.fit(texts, vocab_size)
    return SubwordTokenizer.fit(texts, vocab_size, kind)


def load_tokenizer(state: Mapping[str, Any]) -> TextTokenizer:
    """Restores a tokenizer from its `state_dict`."""
    if state["kind"] == "characters":
        return CharacterTokenizer(state["symbols"])
    return SubwordTokenizer(state["kind"], Tokenizer.from_str(state["json"]))


def save_tokenizer(tokenizer: TextTokenizer, folder: Path) -> None:
    """Writes `tokenizer.json`, which the tokenizers library reads for words and byte pairs."""
    state = tokenizer.state_dict()
    write_text(folder / "tokenizer.json", state.get("json") or json.dumps(state, ensure_ascii=False))


def check_known(tokenizer: TextTokenizer, text: str, what: str) -> None:
    """Raises a `UserError` that names the first character of a text that a character tokenizer does not know."""
    if not isinstance(tokenizer, CharacterTokenizer):
        return
    unknown = np.flatnonzero(tokenizer.encode([text])[0] == UNKNOWN)
    if len(unknown):
        symbol = text[unknown[0]]
        raise UserError(
            f"{what}: character {unknown[0] + 1}, {symbol!r} (U+{ord(symbol):04X}), is not in the training text; "
            "remove it, or train on a text that contains it"
        )


def check_vocabulary(tokenizer: TextTokenizer, vocab_size: int) -> None:
    """Raises a `UserError` if a network has embeddings for fewer tokens than the tokenizer has."""
    if tokenizer.size > vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.size} tokens, but the network {vocab_size}; set "
            "--data.init_args.vocab_size and --model.init_args.network.init_args.vocab_size to the same number"
        )


def is_unspaced(texts: Sequence[str]) -> bool:
    """Whether most letters of the first texts belong to a script without spaces between words."""
    letters = [c for text in texts[:_SAMPLE] for c in text[:_SAMPLE] if c.isalpha()]
    return 2 * sum(_UNSPACED.match(c) is not None for c in letters) > len(letters)


def report_unknown(tokenizer: TextTokenizer, tokens: Sequence[np.ndarray], name: str) -> None:
    """Prints the fraction of unknown tokens in the texts called `name`, and which tokenizer to use if there are many.

    Byte pairs encode every text, so nothing is printed for them.
    """
    if tokenizer.kind == "bpe" or not (total := sum(map(len, tokens))):
        return
    unknown = sum(int((each == UNKNOWN).sum()) for each in tokens) / total
    advice = ""
    if unknown >= _MANY and tokenizer.kind == "words":
        advice = (
            "; train with --data.init_args.tokenizer characters or bpe, which suit scripts without spaces, such as "
            "Chinese or Thai, and texts with many rare words"
        )
    elif unknown >= _MANY:
        advice = "; train with a larger --data.init_args.vocab_size, or with --data.init_args.tokenizer bpe"
    say(f"{name}: {unknown:.1%} of {total:,} tokens are unknown to the tokenizer ({tokenizer.kind}){advice}")


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), "<u4").astype(np.int64)
