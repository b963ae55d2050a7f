"""A solution of the exercise nlp/vocabulary."""

from collections import Counter
from collections.abc import Sequence

UNKNOWN = 0


def encoded(
    train: Sequence[list[str]], val: Sequence[list[str]], size: int
) -> tuple[list[list[int]], list[list[int]], dict[str, int]]:
    """Returns the word numbers of both splits, and the vocabulary.

    The most frequent words get the numbers 1, 2, ..., up to `size`; ties are in alphabetical order. Every other word is
    `UNKNOWN`.

    Args:
        train: the words of each training text.
        val: the words of each validation text.
        size: the largest number of words in the vocabulary.
    """
    counts = Counter(word for text in train for word in text)
    ranked = sorted(counts, key=lambda word: (-counts[word], word))[:size]
    number = {word: place for place, word in enumerate(ranked, start=1)}

    def numbers(texts: Sequence[list[str]]) -> list[list[int]]:
        return [[number.get(word, UNKNOWN) for word in text] for text in texts]

    return numbers(train), numbers(val), number
