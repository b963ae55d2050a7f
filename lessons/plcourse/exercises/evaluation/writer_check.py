"""Checks `writer`."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

_BATCHES = [{f"sample{batch}-{row}": batch + row / 10 for row in range(4)} for batch in range(5)]
_ROWS = [row for batch in _BATCHES for row in batch.items()]


class _KilledError(BaseException):
    """Simulates a kill; a BaseException, so that an answer does not catch it by accident."""


class _Torn(dict[str, float]):
    """A batch during which the process is killed: after two samples every iteration over it raises."""

    def __iter__(self) -> Iterator[str]:
        yield from list(super().__iter__())[:2]
        raise _KilledError

    keys = __iter__  # pyright: ignore[reportAssignmentType]

    def items(self) -> Iterator[tuple[str, float]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return ((key, self[key]) for key in self)

    def values(self) -> Iterator[float]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (self[key] for key in self)


def _check(answer: ModuleType, when: str, *kills: int, torn: bool = False) -> None:
    """Writes all batches after attempts that were killed at these batches, and checks what is read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for kill in kills:
            with contextlib.suppress(_KilledError):
                answer.write(folder, _until_killed(kill, torn))
        answer.write(folder, _BATCHES)
        found = [tuple(row) for row in answer.read(folder)]
    names = [row[0] for row in found]
    twice, never = len(names) - len(set(names)), len({name for name, _ in _ROWS} - set(names))
    assert twice == never == 0, f"{when}{twice} samples twice, {never} never"
    assert found == _ROWS, f"{when}the rows differ in order or value"


def _until_killed(number: int, torn: bool) -> Iterator[dict[str, float]]:
    yield from _BATCHES[:number]
    if torn:
        yield _Torn(_BATCHES[number])
    raise _KilledError


def check_undisturbed(answer: ModuleType) -> None:
    """Without a kill, the folder holds each sample once and in order."""
    _check(answer, "")


def check_killed_between_batches(answer: ModuleType) -> None:
    """After a kill between two batches and a second call, the folder holds each sample once and in order."""
    for number in (0, 1, 4):
        _check(answer, f"killed after {number} batches: ", number)


def check_killed_within_a_batch(answer: ModuleType) -> None:
    """After two kills within a batch and a third call, the folder holds each sample once and in order."""
    for number in (0, 2):
        _check(answer, f"killed in batch {number}, then in batch {number + 1}: ", number, number + 1, torn=True)


def check_done_twice(answer: ModuleType) -> None:
    """A second call after a complete one changes nothing."""
    with tempfile.TemporaryDirectory() as name:
        answer.write(Path(name), _BATCHES)
        answer.write(Path(name), _BATCHES)
        assert [tuple(row) for row in answer.read(Path(name))] == _ROWS, "a second complete call changes the rows"
