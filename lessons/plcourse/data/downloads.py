"""Decides whether a data set that is missing may be downloaded. No torch."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from plcourse.errors import UserError

DOWNLOADED = ("mnist", "fashion_mnist", "cifar10", "oxford_pets")  # the sources with files that can be downloaded

_allowed: ContextVar[bool] = ContextVar("whether the command allows downloads", default=True)


@contextlib.contextmanager
def downloads(allowed: bool) -> Iterator[None]:
    """Allows or refuses downloads inside the block; Python code outside of commands may download."""
    token = _allowed.set(allowed)
    try:
        yield
    finally:
        _allowed.reset(token)


def check_download(missing: str) -> None:
    """Raises a UserError if downloads are refused; `missing` says which files are missing."""
    if not _allowed.get():
        raise UserError(f"{missing}, or download them with --allow_downloads")
