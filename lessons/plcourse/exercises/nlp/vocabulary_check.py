"""Checks `vocabulary`."""

from types import ModuleType

_TRAIN = [["a", "fine", "film"], ["a", "dull", "film"], ["a", "b"]]
_VAL = [["zebra", "zebra", "zebra", "film"], ["a", "dull", "zebra"]]


def check_no_leak(answer: ModuleType) -> None:
    """The validation texts change neither the vocabulary nor the training split."""
    one = answer.encoded(_TRAIN, _VAL, 3)
    other = answer.encoded(_TRAIN, [["x"] * 50], 3)
    assert one[0] == other[0], "other validation texts changed the numbers of the training texts"
    assert one[2] == other[2], "other validation texts changed the vocabulary"


def check_unknown(answer: ModuleType) -> None:
    """A word that no training text contains is unknown."""
    _, val, number = answer.encoded(_TRAIN, _VAL, 100)
    assert "zebra" not in number, "a word that only the validation split contains has a number"
    assert val[0][:3] == [0, 0, 0], f"an unknown word is encoded as {val[0][:3]}"


def check_ranked(answer: ModuleType) -> None:
    """The vocabulary has the most frequent words in order, and at most `size` of them."""
    train, _, number = answer.encoded(_TRAIN, _VAL, 3)
    assert number == {"a": 1, "film": 2, "b": 3}, f"the vocabulary is {number}"
    assert train == [[1, 0, 2], [1, 0, 2], [1, 3]], f"the training split is {train}"
