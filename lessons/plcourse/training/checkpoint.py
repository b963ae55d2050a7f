"""Checkpoint files: written completely or not at all, verified when read, and loaded without running code."""

import hashlib
import io
import os
import pickle
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from lightning_fabric.plugins import CheckpointIO

from plcourse.errors import RunFailed, UserError, first_line
from plcourse.files import link_or_copy, make_folder, staged
from plcourse.processes.collectives import from_rank_0, is_distributed, maximum

BEST, LAST, PREVIOUS = "best.ckpt", "last.ckpt", "previous.ckpt"


class AtomicCheckpointIO(CheckpointIO):
    """Writes a checkpoint under a temporary name in the same folder, syncs it, and renames it over the old one.

    Lightning writes to the system's temporary folder first, so that a full disk destroys the old checkpoint if the two
    are on different file systems (Lightning issue 21253). The checksum is in ``x.ckpt.sha256``; a file that does not
    match it is refused, and so is anything that does not consist of tensors and plain types.
    """

    def __init__(self) -> None:
        self._checked = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Writes ``checkpoint`` to ``path``; raises RunFailed and leaves the old file unchanged if that fails."""
        path = Path(path)
        with _one_line_errors(path):
            make_folder(path.parent)
            with _replacing(path) as temporary:
                with temporary.open("wb") as file:  # a name would become part of the content
                    torch.save(checkpoint, file)
                if not self._checked:
                    _check_loadable(temporary)
                    self._checked = True

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Reads a checkpoint as `load` does, always with ``weights_only``; Lightning calls this on every rank.

        A rank on a node without the file gets it from rank 0.
        """
        path = Path(path)
        here = path.is_file()
        if not is_distributed() or maximum([not here]) == [0]:
            return load(path, map_location)
        if not here:
            content = from_rank_0(None)
            return load(path) if content is None else _read(path, io.BytesIO(content), map_location)
        with _open_verified(path) as file:
            from_rank_0(file.read())
            file.seek(0)
            return _read(path, file, map_location)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a checkpoint and its checksum."""
        path = Path(path)
        if ".." in path.parts:  # Lightning's callback takes the path from the checkpoint, which may be somebody else's
            raise UserError(f"the checkpoint lists the file {path}, which is not in its folder; it is not removed")
        path.unlink(missing_ok=True)
        _checksum_path(path).unlink(missing_ok=True)


def load(path: Path, map_location: Any = None) -> dict[str, Any]:
    """Reads a checkpoint after verifying its checksum, if there is one.

    Args:
        path: the file.
        map_location: as in `torch.load`; the CPU by default.

    Raises:
        UserError: the file is missing, damaged, or contains more than tensors and plain types.
    """
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}{_intact_beside(path)}")
    with _open_verified(path) as file:
        return _read(path, file, map_location)


def _open_verified(path: Path) -> io.BufferedReader:
    """Opens a checkpoint whose content matches its checksum.

    What is verified is what will be read, whatever gets the name in between: a checkpoint is never changed in place.
    """
    while True:
        file = path.open("rb")
        if _matches(file, path):
            file.seek(0)
            return file
        replaced = not os.path.samestat(os.fstat(file.fileno()), path.stat())
        file.close()
        if not replaced:  # otherwise the checksum may belong to the new file
            checksum = _checksum_path(path).name
            raise UserError(f"{path} is damaged: its SHA-256 differs from that in {checksum}{_intact_beside(path)}")


def _read(path: Path, file: BinaryIO, map_location: Any) -> dict[str, Any]:
    """Loads ``file``, which error messages call ``path``."""
    try:
        with warnings.catch_warnings():
            # torch warns about pickles of another protocol and TorchScript archives before it refuses them
            warnings.filterwarnings("ignore", ".*(Detected pickle protocol|TorchScript archive)", UserWarning)
            checkpoint = torch.load(file, map_location=map_location or "cpu", weights_only=True)
    except Exception as error:
        foreign = "weights_only" in str(error) or "Unsupported" in str(error)
        why = "contains Python objects that would run code when loaded" if foreign else "is no complete checkpoint file"
        raise UserError(f"{path} {why}; nothing of it was executed{_intact_beside(path)}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{path} is no Lightning checkpoint: it has no 'state_dict'{_intact_beside(path)}")
    return cast(dict[str, Any], checkpoint)


def verify(path: Path) -> bool:
    """Whether a file matches its checksum; true for a file without one."""
    with path.open("rb") as file:
        return _matches(file, path)


def _matches(file: io.BufferedReader, path: Path) -> bool:
    """Whether an open checkpoint matches the checksum of the name that it had."""
    if not _checksum_path(path).is_file():
        return True
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    return digest in _checksum_path(path).read_text(errors="replace").split()


def link(source: Path, target: Path) -> None:
    """Makes ``target`` the same file as ``source``, atomically and with its checksum; copies only if links fail.

    Both names stay intact, because checkpoints are replaced and never modified.
    """
    with _one_line_errors(target), _replacing(target, _digest(source)) as temporary:
        link_or_copy(source, temporary)


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    """Turns every error that can occur while a checkpoint is written into a one-line RunFailed."""
    try:
        yield
    except (OSError, RuntimeError, pickle.PicklingError, AttributeError, TypeError) as error:
        # torch reports a full disk as a RuntimeError, and objects that cannot be pickled as any of the last three
        reason = getattr(error, "strerror", None) or first_line(error)
        raise RunFailed(f"cannot write the checkpoint {path}: {reason}; the previous file is intact") from error


def _check_loadable(path: Path) -> None:
    """Raises RuntimeError if a checkpoint contains a class, which would otherwise be noticed only on resume."""
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        kind = match.group(1) if (match := re.search(r"GLOBAL (\S+)", str(error))) else "an object of a class"
        raise RuntimeError(
            f"it contains {kind}, which a safe load refuses; hyper-parameters and states must be plain types"
        ) from error


def _digest(path: Path) -> str:
    """Returns the SHA-256 of a file, from its checksum file unless a kill left two there."""
    checksum = _checksum_path(path)
    known = checksum.read_text().split() if checksum.is_file() else []
    return known[0] if len(known) == 1 else _sha256(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _replacing(path: Path, digest: str | None = None) -> Iterator[Path]:
    """Replaces a checkpoint and its checksum by what the block writes to a temporary path.

    Args:
        path: the checkpoint.
        digest: the SHA-256 of the new content; None computes it.
    """
    # The checksum file must match both before and after the rename, so it contains both checksums in between. It is
    # written first, so that a disk that becomes full in between leaves no checkpoint without a checksum.
    with staged(path) as temporary:
        yield temporary
        digest = digest or _sha256(temporary)
        old = [_digest(path)] if path.is_file() else []
        _write_checksum(path, [*old, digest])
    if old:
        _write_checksum(path, [digest])


def _write_checksum(path: Path, digests: list[str]) -> None:
    with staged(_checksum_path(path), sync_folder=False) as temporary:
        temporary.write_text("\n".join(digests) + "\n")


def _checksum_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _intact_beside(path: Path) -> str:
    others = [path.with_name(name) for name in (LAST, PREVIOUS, BEST) if name != path.name]
    intact = next(
        (other for other in others if other.is_file() and _checksum_path(other).is_file() and verify(other)), None
    )
    return f"; {intact} is intact: --ckpt_path {intact}" if intact else ""
