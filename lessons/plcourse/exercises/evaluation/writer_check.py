"""Checks `writer`."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_BATCHES = [{f"sample{batch}-{row}": batch + row / 10 for row in range(4)} for batch in range(5)]
_ROWS = [row for batch in _BATCHES for row in batch.items()]


class _KilledError(BaseException):
    """Simulates a kill; a BaseException, so that an answer does not catch it by accident."""


class _Torn(dict):
    """A batch during which the process is killed."""

    def items(self) -> Any:
        return self._until_killed()

    def _until_killed(self) -> Iterator[tuple[str, float]]:
        yield from list(super().items())[:2]
        raise _KilledError

    def __iter__(self) -> Iterator[str]:
        yield from list(super().__iter__())[:2]
        raise _KilledError

    def keys(self) -> Any:
        return iter(self)

    def values(self) -> Any:
        return (self[key] for key in self)


def _killed_in(answer: Any, folder: Path, number: int, torn: bool) -> None:
    def batches() -> Iterator[dict[str, float]]:
        yield from _BATCHES[:number]
        if torn:
            yield _Torn(_BATCHES[number])
        raise _KilledError

    try:
        answer.write(folder, batches())
    except _KilledError:
        return


def _difference(found: Any) -> str | None:
    names = [name for name, _ in found]
    twice, never = len(names) - len(set(names)), len({name for name, _ in _ROWS} - set(names))
    if list(map(tuple, found)) == _ROWS:
        return None
    return f"{twice} samples twice, {never} never" if twice or never else "the rows differ in order or value"


def check_undisturbed(answer: Any) -> None:
    """Without a kill, the folder holds each sample once and in order."""
    with tempfile.TemporaryDirectory() as folder:
        answer.write(Path(folder), _BATCHES)
        problem = _difference(answer.read(Path(folder)))
        assert problem is None, problem


def check_killed_between_batches(answer: Any) -> None:
    """After a kill between two batches and a second call, the folder holds each sample once and in order."""
    for number in (0, 1, 4):
        with tempfile.TemporaryDirectory() as folder:
            _killed_in(answer, Path(folder), number, torn=False)
            answer.write(Path(folder), _BATCHES)
            problem = _difference(answer.read(Path(folder)))
            assert problem is None, f"killed after {number} batches: {problem}"


def check_killed_within_a_batch(answer: Any) -> None:
    """After two kills within a batch and a third call, the folder holds each sample once and in order."""
    for number in (0, 2):
        with tempfile.TemporaryDirectory() as folder:
            _killed_in(answer, Path(folder), number, torn=True)
            _killed_in(answer, Path(folder), number + 1, torn=True)
            answer.write(Path(folder), _BATCHES)
            problem = _difference(answer.read(Path(folder)))
            assert problem is None, f"killed in batch {number}, then in batch {number + 1}: {problem}"


def check_done_twice(answer: Any) -> None:
    """A second call after a complete one changes nothing."""
    with tempfile.TemporaryDirectory() as folder:
        answer.write(Path(folder), _BATCHES)
        answer.write(Path(folder), _BATCHES)
        problem = _difference(answer.read(Path(folder)))
        assert problem is None, problem
