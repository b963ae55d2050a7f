"""The relations of `vocabulary`."""

from typing import Any

_TRAIN = [["a", "fine", "film"], ["a", "dull", "film"], ["a", "b"]]
_VAL = [["zebra", "zebra", "zebra", "film"], ["a", "dull", "zebra"]]


def check_no_leak(answer: Any) -> None:
    """Other validation texts leave vocabulary and training part as they were."""
    one = answer.encoded(_TRAIN, _VAL, 3)
    other = answer.encoded(_TRAIN, [["x"] * 50], 3)
    assert one[0] == other[0], "training texts were encoded anew when validation texts changed"
    assert one[2] == other[2], "the vocabulary changed with the validation texts"


def check_unknown(answer: Any) -> None:
    """A word that was never trained on is unknown."""
    _, val, number = answer.encoded(_TRAIN, _VAL, 100)
    assert "zebra" not in number, "a word of the validation part alone has a number"
    assert val[0][:3] == [0, 0, 0], f"it is encoded as {val[0][:3]}"


def check_ranked(answer: Any) -> None:
    """The most frequent words come first, and no more than were asked for."""
    train, _, number = answer.encoded(_TRAIN, _VAL, 3)
    assert number == {"a": 1, "film": 2, "b": 3}, f"the vocabulary is {number}"
    assert train == [[1, 0, 2], [1, 0, 2], [1, 3]], f"the training part is {train}"
