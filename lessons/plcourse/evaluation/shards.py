"""Predictions on disk, shard by shard: a committed shard survives any kill, and nothing else counts.

A *shard* is a file with the rows of consecutive positions. It is committed in three steps, each on disk before the
next: the file is written under a temporary name, it gets its final name, and this rank's journal gets a line. A kill in
between leaves a file that no journal names. Its positions are computed again, and the file is replaced.

    <folder>/part-000000000000.parquet    the shards in name order; the number is the first position
    <folder>/_manifest.json               what they hold
    <folder>/_quarantine.csv              inputs that could not be read, and why; only if there are any
    <folder>/_partial/                    the same while it grows, with one journal per rank

An earlier prediction stays until the new one is complete. Readers of Parquet datasets skip names that begin with an
underscore.
"""

import contextlib
import csv
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from plcourse.errors import RunFailed, UserError, first_line
from plcourse.files import LOCK, hold, publish, release, sync, write_json, write_text
from plcourse.runs.prediction_files import MANIFEST, PARTIAL, QUARANTINE, finish

Format = Literal["parquet", "csv", "jsonl"]

FORMULA = r"^([=+\-@\t\r])"  # the beginning of a cell that spreadsheets calculate
_KEPT = "journal-kept.jsonl"  # the shards that earlier attempts committed
_SCHEMA = 1
_DAMAGE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)  # raised by parsing damaged JSON


@dataclass(frozen=True)
class Shard:
    """One committed file, with the rows of consecutive batches."""

    file: str
    first: int  # number of its first batch
    batches: int
    rows: int
    bytes: int
    quarantined: list[tuple[str, str]] = field(default_factory=list)  # id and reason of each input without a row


@dataclass(frozen=True)
class _Manifest:
    key: str | None = None
    complete: bool = False
    shards: Sequence[Shard] = ()


class ShardFolder:
    """The folder of one prediction, as one rank sees it.

    The key identifies the weights, inputs and settings; shards with another key are not reused.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        format: Format,  # noqa: A002  (its usual name)
        rank: int = 0,
        escape_formulas: bool = False,
    ) -> None:
        self.folder, self.key, self.rank, self.escape_formulas = folder, key, rank, escape_formulas
        self.format: Format = format
        self.partial = folder / PARTIAL
        self._lock: int | None = None

    def open(self) -> tuple[list[Shard], bool]:
        """Returns the committed shards, and whether they are the complete dataset; rank 0 calls it before any writes.

        It removes what a prediction with another key left unfinished. A torn line in a journal does not count, nor does
        a file whose size differs from its line.

        Raises:
            UserError: another process is writing into this folder, or a manifest is damaged.
        """
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make '{self.partial}': {error.strerror}; choose another output_dir") from error
        self._lock = hold(self.folder, "predictions")
        begun = _read(self.partial / MANIFEST)
        if begun.complete:  # killed while it was being published
            finish(self.folder)
        elif begun.key == self.key:
            return self._committed(), False
        for path in self.partial.iterdir():
            path.unlink()
        done = _read(self.folder / MANIFEST)
        if done.key == self.key and done.shards and all(_is_whole(self.folder, shard) for shard in done.shards):
            self.partial.rmdir()
            return list(done.shards), True
        return [], False

    def begin(self, shards: Sequence[Shard]) -> None:
        """Starts the partial dataset, or continues it from these shards; rank 0 calls it."""
        write_text(self.partial / _KEPT, "".join(map(_line, shards)))
        write_json(self.partial / MANIFEST, {"schema": _SCHEMA, "key": self.key, "complete": False})
        keep = {_KEPT, MANIFEST, *(shard.file for shard in shards)}
        for path in self.partial.iterdir():  # the old journals go last, when the new one is on disk
            if path.name not in keep:
                path.unlink()

    def path(self, first_row: int) -> Path:
        """The temporary file of the shard that starts at a position."""
        return self.partial / f".part-{first_row:012d}.{self.format}"

    def commit(self, temporary: Path, shard: Shard) -> None:
        """Commits a closed file; any rank may call it."""
        publish(temporary, self.partial / shard.file)
        journal = self.partial / f"journal-{self.rank:05d}.jsonl"
        with journal.open("a", encoding="utf-8") as stream:
            stream.write(_line(shard))
            stream.flush()
            os.fsync(stream.fileno())

    def publish(
        self, shards: Iterable[Shard], given: int, facts: Mapping[str, object] | None = None
    ) -> dict[str, object]:
        """Replaces an earlier dataset by the complete one; rank 0 calls it when all ranks have committed.

        Each of the ``given`` inputs must be a row or quarantined. ``facts`` are more fields for the manifest.

        Raises:
            RunFailed: a shard is not in this folder, or the counts do not add up.
        """
        ordered = sorted(shards, key=lambda shard: shard.first)
        quarantined = [entry for shard in ordered for entry in shard.quarantined]
        seen = sum(shard.rows for shard in ordered)
        if missing := [shard.file for shard in ordered if not (self.partial / shard.file).is_file()]:
            raise RunFailed(
                f"{missing[0]} is not in '{self.partial}': all ranks need the same folder, on a shared disk"
            )
        if seen + len(quarantined) != given:
            raise RunFailed(f"{seen} rows and {len(quarantined)} quarantined inputs do not add up to {given} inputs")
        if quarantined:
            with (self.partial / QUARANTINE).open("w", encoding="utf-8", newline="") as stream:
                rows = [("id", "reason"), *quarantined]
                escaped = [tuple(map(without_formula, row)) for row in rows] if self.escape_formulas else rows
                csv.writer(stream).writerows(escaped)
            sync(self.partial / QUARANTINE)
        manifest = {
            "schema": _SCHEMA,
            "key": self.key,
            "complete": True,
            "format": self.format,
            "given": given,
            "seen": seen,
            "quarantined": len(quarantined),
            **(facts or {}),
            "shards": [asdict(shard) for shard in ordered],
        }
        write_json(self.partial / MANIFEST, manifest)
        finish(self.folder)
        shutil.rmtree(self.partial)
        return manifest

    def close(self) -> None:
        """Releases the lock on the folder."""
        if self._lock is not None:
            release(self._lock, self.folder / LOCK)
            self._lock = None

    def _committed(self) -> list[Shard]:
        found: dict[str, Shard] = {}
        for journal in sorted(self.partial.glob("journal-*.jsonl")):
            for line in journal.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(*_DAMAGE, OSError):  # cut short by a kill, or changed by a failing disk
                    shard = _shard(json.loads(line))
                    if _is_whole(self.partial, shard):
                        found[shard.file] = shard
        return sorted(found.values(), key=lambda shard: shard.first)


def without_formula(cell: str) -> str:
    """Returns a cell that spreadsheets show as text, with an apostrophe before what would begin a formula."""
    return re.sub(FORMULA, r"'\1", cell)


def _read(path: Path) -> _Manifest:
    """Reads a manifest; an empty one if there is no file."""
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise TypeError("not a JSON object")
        shards = [_shard(entry) for entry in content.get("shards", [])]
        foreign = [shard.file for shard in shards if not _is_in_folder(shard)]
    except FileNotFoundError:
        return _Manifest()
    except _DAMAGE as error:
        raise UserError(f"'{path}' is damaged: {first_line(error)}; remove it to predict again") from error
    if foreign:  # listed files are removed and moved, so none may lie elsewhere
        raise UserError(f"'{path}' lists {foreign[0]!r}, which is not a file name; remove it to predict again")
    return _Manifest(content.get("key"), bool(content.get("complete")), shards)


def _is_in_folder(shard: Shard) -> bool:
    return isinstance(shard.file, str) and shard.file not in ("", "..") and Path(shard.file).name == shard.file


def _is_whole(folder: Path, shard: Shard) -> bool:
    file = folder / shard.file if _is_in_folder(shard) else None
    return file is not None and file.is_file() and file.stat().st_size == shard.bytes


def _shard(entry: dict[str, Any]) -> Shard:
    return Shard(**{**entry, "quarantined": [(name, reason) for name, reason in entry["quarantined"]]})


def _line(shard: Shard) -> str:
    return json.dumps(asdict(shard)) + "\n"
