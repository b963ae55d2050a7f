"""Predictions on disk, shard by shard: what is committed survives any kill, and nothing else counts.

A *shard* is a file with the rows of consecutive positions. It is committed in three steps, each on disk before the
next: the file under a temporary name, its final name, a line in this rank's journal. A kill between any two leaves a
file that no journal names; the positions are computed again and the file is replaced.

    <folder>/part-000000000000.parquet    the shards, in the order of their names; the number is the first position
    <folder>/_manifest.json               what they hold
    <folder>/_quarantine.csv              inputs that could not be read, with their reason; only where there are any
    <folder>/_partial/                    the same while it grows, with one journal per rank

The dataset of an earlier prediction stays until the new one is complete. Names that begin with an underscore are
passed over by readers of Parquet datasets.
"""

import contextlib
import csv
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from plcourse.core.errors import RunFailed, UserError, first_line
from plcourse.core.runs import hold, replace_file, write_json
from plcourse.evaluation.formats import Format

MANIFEST, QUARANTINE, PARTIAL = "_manifest.json", "_quarantine.csv", "_partial"
_KEPT = "journal-kept.jsonl"  # what earlier attempts have committed
_SCHEMA = 1
_NO_FACTS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Shard:
    """One committed file.

    Attributes:
        file: its name.
        first: number of its first batch.
        batches: how many consecutive batches it holds.
        rows: rows in it.
        bytes: its size.
        quarantined: (id, reason) of each input of these batches that has no row.
    """

    file: str
    first: int
    batches: int
    rows: int
    bytes: int
    quarantined: list[tuple[str, str]] = field(default_factory=list)


class ShardFolder:
    """The folder of one prediction, as every rank sees it.

    Args:
        folder: where the dataset is to be.
        key: tells one prediction from another: weights, settings and inputs.
        format: the shards' format.
        rank: this process.
    """

    def __init__(self, folder: Path, key: str, format: Format, rank: int = 0) -> None:  # noqa: A002  (its usual name)
        self.folder, self.key, self.format, self.rank = folder, key, format, rank
        self.partial = folder / PARTIAL
        self._lock: int | None = None

    def open(self) -> tuple[list[Shard], bool]:
        """Clears up after a kill and finds what is committed; for rank 0, before any rank writes.

        What another prediction left unfinished is removed. A journal's torn last line, and a file that is not as long
        as its journal says, count as not written.

        Returns:
            The committed shards, and whether they are the complete dataset.

        Raises:
            UserError: another process is writing into this folder.
        """
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"cannot make '{self.partial}': {error.strerror}; output_dir names another one") from error
        self._lock = hold(self.folder, "predictions")
        begun = _read(self.partial / MANIFEST)
        if begun.get("complete"):  # killed while it was being published
            self._swap(begun)
            self.partial.mkdir()
        elif begun.get("key") == self.key:
            return self._committed(), False
        for path in self.partial.iterdir():
            path.unlink()
        done = _read(self.folder / MANIFEST)
        shards = [_shard(entry) for entry in done.get("shards", [])] if done.get("key") == self.key else []
        if shards and all(_is_whole(self.folder, shard) for shard in shards):
            self.partial.rmdir()
            return shards, True
        return [], False

    def begin(self, shards: Sequence[Shard]) -> None:
        """Starts or goes on with the partial dataset; for rank 0."""
        replace_file(self.partial / _KEPT, "".join(map(_line, shards)))
        write_json(self.partial / MANIFEST, {"schema": _SCHEMA, "key": self.key, "complete": False})
        keep = {_KEPT, MANIFEST, *(shard.file for shard in shards)}
        for path in self.partial.iterdir():  # only now: what the old journals say is in the new one
            if path.name not in keep:
                path.unlink()

    def path(self, first_row: int) -> Path:
        """The temporary file of the shard that starts at a position."""
        return self.partial / f".part-{first_row:012d}.{self.format}"

    def commit(self, temporary: Path, shard: Shard) -> None:
        """Makes a closed file count; for any rank."""
        _sync(temporary)
        temporary.replace(self.partial / shard.file)
        _sync(self.partial)
        journal = self.partial / f"journal-{self.rank:05d}.jsonl"
        with journal.open("a", encoding="utf-8") as stream:
            stream.write(_line(shard))
            stream.flush()
            os.fsync(stream.fileno())

    def publish(self, shards: Iterable[Shard], given: int, facts: Mapping[str, Any] = _NO_FACTS) -> dict[str, Any]:
        """Puts the complete dataset in the place of an earlier one; for rank 0, when all ranks have committed.

        Args:
            shards: all of them, in any order.
            given: inputs in all; each is a row or quarantined.
            facts: further fields of the manifest, such as where the inputs come from.

        Returns:
            The manifest.

        Raises:
            RunFailed: a shard is not in this folder, or the counts do not add up.
        """
        ordered = sorted(shards, key=lambda shard: shard.first)
        quarantined = [entry for shard in ordered for entry in shard.quarantined]
        seen = sum(shard.rows for shard in ordered)
        missing = [shard.file for shard in ordered if not (self.partial / shard.file).is_file()]
        if missing:
            raise RunFailed(
                f"{missing[0]} is not in '{self.partial}': all ranks need the same folder, on a shared disk"
            )
        if seen + len(quarantined) != given:
            raise RunFailed(f"{seen} rows and {len(quarantined)} quarantined inputs are not the {given} given")
        if quarantined:
            _write_quarantine(self.partial / QUARANTINE, quarantined)
        manifest = {
            "schema": _SCHEMA,
            "key": self.key,
            "complete": True,
            "format": self.format,
            "given": given,
            "seen": seen,
            "quarantined": len(quarantined),
            **facts,
            "shards": [asdict(shard) for shard in ordered],
        }
        write_json(self.partial / MANIFEST, manifest)
        self._swap(manifest)
        return manifest

    def close(self) -> None:
        """Lets other processes write here."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _swap(self, manifest: dict[str, Any]) -> None:
        """Old files out, new files in, the manifest last; a kill anywhere in between is made good by a second call."""
        old = self.folder / MANIFEST
        for shard in _read(old).get("shards", []):
            (self.folder / shard["file"]).unlink(missing_ok=True)
        for path in (*self.folder.glob("part-?????.parquet"), self.folder / QUARANTINE):  # those of the plain writer
            path.unlink(missing_ok=True)
        old.unlink(missing_ok=True)
        for name in [shard["file"] for shard in manifest["shards"]] + [QUARANTINE]:
            with contextlib.suppress(FileNotFoundError):  # moved before the kill, or there is none
                (self.partial / name).replace(self.folder / name)
        _sync(self.folder)
        (self.partial / MANIFEST).replace(old)
        _sync(self.folder)
        shutil.rmtree(self.partial)

    def _committed(self) -> list[Shard]:
        found: dict[str, Shard] = {}
        for journal in sorted(self.partial.glob("journal-*.jsonl")):
            for line in journal.read_text(encoding="utf-8", errors="replace").splitlines():
                # the line that a kill cut short, or one that a failing disk changed
                with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError):
                    shard = _shard(json.loads(line))
                    if _is_whole(self.partial, shard):
                        found[shard.file] = shard
        return sorted(found.values(), key=lambda shard: shard.first)


def _read(manifest: Path) -> dict[str, Any]:
    try:
        content = json.loads(manifest.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        raise UserError(f"'{manifest}' is damaged: {first_line(error)}; remove it to predict again") from error
    if not isinstance(content, dict):
        raise UserError(f"'{manifest}' is damaged: it holds no object; remove it to predict again")
    try:
        foreign = [shard.file for shard in map(_shard, content.get("shards", [])) if not _is_own(shard)]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"'{manifest}' is damaged: {first_line(error)}; remove it to predict again") from error
    if foreign:  # files that it lists are removed and moved
        raise UserError(f"'{manifest}' lists {foreign[0]!r}, no file of its own folder; remove it to predict again")
    return content


def _is_own(shard: Shard) -> bool:
    return isinstance(shard.file, str) and shard.file not in ("", "..") and Path(shard.file).name == shard.file


def _is_whole(folder: Path, shard: Shard) -> bool:
    if not _is_own(shard):
        return False
    file = folder / shard.file
    return file.is_file() and file.stat().st_size == shard.bytes


def _shard(entry: dict[str, Any]) -> Shard:
    return Shard(**{**entry, "quarantined": [(name, reason) for name, reason in entry["quarantined"]]})


def _line(shard: Shard) -> str:
    return json.dumps(asdict(shard)) + "\n"


def _write_quarantine(path: Path, quarantined: Sequence[tuple[str, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("id", "reason"))
        writer.writerows(quarantined)
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some file systems cannot sync a folder
            raise
    finally:
        os.close(handle)
