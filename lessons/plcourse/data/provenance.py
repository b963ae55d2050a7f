"""The samples that a model was trained on, kept with its weights so that none of them is scored as a test sample.

A sample is identified by a 64-bit hash of its content, not by its name: a training file is recognized under another
name and in another folder, and two files ``0001.png`` in two folders are not confused. A split uses the same hashes to
keep equal samples together, so that no sample of a run's own test part is among them.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plcourse.files import staged

KEY = "trained_on"  # in a checkpoint
INSIDE = 100_000  # a checkpoint contains up to this many hashes; more are in a file next to it


@dataclass(frozen=True)
class Identities:
    """The hashes and ids of the samples of a loader."""

    hashes: np.ndarray  # uint64 [N], or [N, 2] if a sample has two, such as its own and that of its near-duplicates
    ids: Sequence[str] | Sequence[int]  # N names or numbers

    def among(self, known: np.ndarray | None) -> np.ndarray:
        """The positions of the samples whose hash is among `known` (sorted uint64, or None), ascending int64."""
        if known is None or not len(known) or not len(self.hashes):
            return np.empty(0, np.int64)
        place = np.minimum(np.searchsorted(known, self.hashes), len(known) - 1)
        found = known[place] == self.hashes
        return np.flatnonzero(found.reshape(len(found), -1).any(axis=1))


@dataclass(frozen=True)
class Training:
    """The samples that some weights were trained on."""

    terms: dict[str, Any] = field(default_factory=dict)  # their source and split, such as ``split_seed``
    hashes: np.ndarray | None = None  # sorted distinct uint64; None if only their digest is known
    count: int = 0  # the number of samples
    digest: str = ""  # hash of `hashes`; empty for a training that was not recorded

    @classmethod
    def on(cls, samples: Identities, terms: Mapping[str, Any]) -> "Training":
        """A training on these samples."""
        hashes = np.sort(samples.hashes, axis=None)  # np.unique takes ten times as long
        hashes = hashes[np.diff(hashes, prepend=~hashes[:1]) != 0]
        digest = hashlib.blake2b(hashes.tobytes(), digest_size=8).hexdigest()
        return cls(dict(terms), hashes, len(samples.hashes), digest)

    @property
    def file_name(self) -> str:
        """The name of its file next to the checkpoints."""
        return f"training_samples-{self.digest}.npz"

    def state(self) -> dict[str, Any]:
        """The record of it in a checkpoint."""
        inside = None
        if self.hashes is not None and len(self.hashes) <= INSIDE:
            inside = torch.from_numpy(self.hashes.view(np.int64))
        return {"terms": self.terms, "count": self.count, "digest": self.digest, "hashes": inside}

    def save(self, folder: Path) -> None:
        """Writes its file if it does not exist; raises OSError if that fails."""
        path = folder / self.file_name
        if self.hashes is None or path.is_file():
            return
        folder.mkdir(parents=True, exist_ok=True)
        with staged(path) as temporary, temporary.open("wb") as file:
            np.savez(file, hashes=self.hashes, terms=json.dumps(self.terms), count=self.count)

    @classmethod
    def load(cls, state: Mapping[str, Any], folder: Path) -> "Training":
        """Reads the record in a checkpoint, and the file in the checkpoint's folder if the hashes are there."""
        terms, count, digest, inside = (state[name] for name in ("terms", "count", "digest", "hashes"))
        if inside is not None:
            return cls(terms, inside.numpy().view(np.uint64), count, digest)
        return cls(terms, None, count, digest).with_file(folder)

    def with_file(self, folder: Path) -> "Training":
        """This training with the contents of its file, if the file exists and has the right digest."""
        try:
            content = (folder / self.file_name).read_bytes()
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                hashes, terms, count = file["hashes"], json.loads(str(file["terms"])), int(file["count"])
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return self
        right = hashlib.blake2b(hashes.tobytes(), digest_size=8).hexdigest() == self.digest
        return Training(terms, hashes, count, self.digest) if right else self


def trainings_of(checkpoint: Mapping[str, Any], folder: Path) -> list[Training]:
    """The trainings of the weights of a checkpoint in `folder`, in order; one without a digest if it has no record."""
    states = checkpoint.get(KEY)
    return [Training.load(state, folder) for state in states] if states else [Training()]


def trainings_beside(folder: Path, digests: Sequence[str]) -> list[Training]:
    """The trainings with these digests, from their files in a folder; without hashes if a file is missing."""
    return [Training(digest=digest).with_file(folder) for digest in digests]


def row_hashes(rows: np.ndarray) -> np.ndarray:
    """64 bits of BLAKE2b over each row of an array [N, ...]: uint64 [N]."""
    flat = np.ascontiguousarray(rows).reshape(len(rows), int(np.prod(rows.shape[1:])))
    digests = b"".join(hashlib.blake2b(row.data, digest_size=8).digest() for row in flat)
    return np.frombuffer(digests, "<u8").astype(np.uint64)
