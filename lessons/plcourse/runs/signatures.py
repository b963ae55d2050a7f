"""Signs what this user has made, with a key that only this user can read. No torch.

A SHA-256 beside a file shows damage, but whoever can replace the file can replace its hash as well. An HMAC (RFC 2104)
cannot be made without the key. The key is created when something is signed for the first time, in
``$XDG_CONFIG_HOME/plcourse/key`` or ``~/.config/plcourse/key``.
"""

import contextlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path

from plcourse.errors import UserError
from plcourse.files import locked

KEY_BYTES = 32

_trusted: ContextVar[tuple[Path, ...]] = ContextVar("files and folders that --trust_artifact names", default=())


def sign(content: object) -> str:
    """Returns the signature of a value that JSON can express.

    Raises:
        UserError: the key can be neither read nor created.
    """
    return _hmac(_key(create=True), content)


def is_signed(content: object, signature: object) -> bool:
    """Returns whether this user has signed a value; False also if there is no key."""
    try:
        expected = _hmac(_key(), content)
    except (UserError, ValueError, RecursionError):
        return False
    return isinstance(signature, str) and hmac.compare_digest(expected.encode(), signature.encode(errors="replace"))


def key_path() -> Path:
    """Returns the file of the key.

    Raises:
        UserError: the user has no home folder.
    """
    folder = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    try:
        # the XDG specification ignores a relative path
        return (folder if folder.is_absolute() else Path.home() / ".config") / "plcourse" / "key"
    except RuntimeError as error:
        raise UserError("no key to sign with: set HOME or XDG_CONFIG_HOME to a folder") from error


@contextlib.contextmanager
def trusting(paths: Iterable[Path]) -> Iterator[None]:
    """Opens unsigned programs inside the block if they are one of these files or are in one of these folders."""
    token = _trusted.set((*_trusted.get(), *(path.resolve() for path in paths)))
    try:
        yield
    finally:
        _trusted.reset(token)


def trusted_paths() -> tuple[Path, ...]:
    """Returns the files and folders of the enclosing `trusting` blocks, without links."""
    return _trusted.get()


def is_trusted(path: Path) -> bool:
    """Returns whether the user has said to trust a file."""
    return any(path.resolve().is_relative_to(each) for each in _trusted.get())


def _hmac(key: bytes, content: object) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hmac.digest(key, canonical.encode(), "sha256").hex()


def _key(create: bool = False) -> bytes:
    path = key_path()
    try:
        if create:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(path.parent):  # a reader must not see half of a new key
            if create and not path.exists():
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with os.fdopen(handle, "wb") as file:
                    file.write(secrets.token_bytes(KEY_BYTES))
            return _read(path)
    except OSError as error:
        raise UserError(f"no key to sign with: cannot use '{path}': {error.strerror}") from error


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        found, key = os.fstat(file.fileno()), file.read(KEY_BYTES + 1)
    problem = ""
    if os.name == "posix" and found.st_uid != os.geteuid():
        problem = "belongs to another user"
    elif os.name == "posix" and found.st_mode & 0o077:
        problem = f"has mode {stat.S_IMODE(found.st_mode):04o}, so that others may have read it"
    elif len(key) != KEY_BYTES:  # an empty key would let anyone sign
        problem = f"has {len(key)} bytes instead of {KEY_BYTES}"
    if problem:
        raise UserError(f"no key to sign with: '{path}' {problem}; remove the file, and export again what it signed")
    return key
