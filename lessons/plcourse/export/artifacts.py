"""Exported files on disk: written atomically, listed with their checksums, and refused if they could do harm.

A TorchScript or torch.export file is a program, and loading a foreign one runs its author's code. Such a file is only
opened if this user has signed its entry in ``export/manifest.json``, which holds its SHA-256, or trusts the file by
``--trust_artifact``. An ONNX file is data, but it may name other files, which must lie in its folder. This module
imports neither torch nor onnxruntime.
"""

import hashlib
import io
import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from plcourse.console import say
from plcourse.errors import UserError, first_line, nearest
from plcourse.export.card import Card
from plcourse.export.certificate import Row
from plcourse.files import publish, write_json
from plcourse.runs import signatures
from plcourse.runs.environment import environment
from plcourse.runs.run import Run

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

_KEY = "artefacts"  # spelled as in the manifests that exist
_SUFFIXES = {"torchscript_trace": ".pt", "torchscript_script": ".pt", "torch_export": ".pt2"}  # others end in .onnx


class Entry(TypedDict):
    """One format in ``export/manifest.json``."""

    file: str
    sha256: str
    bytes: int
    verified: bool
    card: dict[str, Any]
    signature: NotRequired[str]  # of the other fields except `verified`, for programs; see `plcourse.runs.signatures`


class Artifacts:
    """The exported files of one run, in its folder ``export/``."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.folder = run.path / "export"
        self.manifest_path = self.folder / "manifest.json"

    @property
    def manifest(self) -> dict[str, Entry]:
        """The entry of each exported format."""
        return _read(self.manifest_path, _KEY)

    def path(self, format_: str) -> Path:
        """The path of a format's file."""
        return self.folder / format_ / f"model{_SUFFIXES.get(format_, '.onnx')}"

    def add(self, format_: str, write: Callable[[Path], Card]) -> None:
        """Writes a file under a temporary name, renames it, and adds it to the manifest, not yet verified.

        A kill in between leaves a file whose checksum is not listed; opening it is refused.
        """
        path = self.path(format_)
        temporary = path.with_name(f".{path.stem}.tmp{path.suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            card = write(temporary)
            entry: Entry = {
                "file": path.relative_to(self.folder).as_posix(),
                "sha256": digest(temporary),
                "bytes": temporary.stat().st_size,
                "verified": False,
                "card": asdict(card),
            }
            publish(temporary, path)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
                path.parent.rmdir()  # fails unless it is empty
        self._write({**self.manifest, format_: self._signed(format_, entry)})

    def mark(self, format_: str, verified: bool) -> None:
        """Records the outcome of the verification."""
        manifest = self.manifest
        self._write({**manifest, format_: {**manifest[format_], "verified": verified}})

    def certify(self, rows: Sequence[Row]) -> None:
        """Writes rows into ``verification.json`` and keeps the rows of other formats."""
        path = self.folder / "verification.json"
        new = {row["format"]: row for row in rows}
        old = {name: row for name, row in _read(path, "rows").items() if name not in new}
        here = {key: value for key, value in environment().items() if key in ("versions", "hardware")}
        self.folder.mkdir(exist_ok=True)
        write_json(path, {"run": self.run.name, "rows": {**new, **old}, **here})

    def _write(self, manifest: dict[str, Entry]) -> None:
        write_json(self.manifest_path, {"run": self.run.name, _KEY: manifest})

    def check(self, format_: str) -> tuple[Path, Card]:
        """Returns the path and card of a format's file if its checksum is the listed one.

        Raises:
            UserError: the format was not exported, or the file is not the one that the manifest lists.
        """
        manifest = self.manifest
        if format_ not in manifest:
            known = ", ".join(manifest) or "none"
            raise UserError(
                f"run {self.run.name} has no export '{format_}', it has {known}{nearest(format_, manifest)}; to "
                f"write it: plcourse export --run {shlex.quote(str(self.run.path))} --format {format_}"
            )
        path, entry = self.path(format_), manifest[format_]
        card = Card.of(entry["card"])
        if not path.is_file() or digest(path) != entry["sha256"] or card.format != format_:
            raise self._not_listed(path)
        return path, card

    def is_trusted(self, format_: str) -> bool:
        """Returns whether opening a format runs no foreign code: it is data, this user's, or trusted by a flag."""
        entry = self.manifest[format_]
        signed = signatures.is_signed(_statement(format_, entry), entry.get("signature"))
        return is_data(format_) or signed or signatures.is_trusted(self.path(format_))

    def program(self, format_: str) -> io.BytesIO:
        """Reads a format that is a program, once, so that what was verified is what gets loaded.

        Raises:
            UserError: the file is not the listed one, or neither signed by this user nor trusted.
        """
        path = self.path(format_)
        if not self.is_trusted(format_):
            raise UserError(
                f"{path} is a program without your signature, and opening it runs its author's code; export it again, "
                f"or, if you wrote it or trust its author, add --trust_artifact {shlex.quote(str(path))}"
            )
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.manifest[format_]["sha256"]:
            raise self._not_listed(path)
        return io.BytesIO(content)

    def _signed(self, format_: str, entry: Entry) -> Entry:
        if is_data(format_):
            return entry
        try:
            return {**entry, "signature": signatures.sign(_statement(format_, entry))}
        except UserError as error:
            say(f"{error}; {format_} is written without a signature and will need --trust_artifact")
            return entry

    def _not_listed(self, path: Path) -> UserError:
        return UserError(f"{path} is not the file that {self.manifest_path.name} lists; it was not loaded")


def is_data(format_: str) -> bool:
    """Returns whether a format is data, which runs no code when it is opened; the others are programs."""
    return format_.startswith("onnx")


def _statement(format_: str, entry: Entry) -> dict[str, object]:
    """Returns what a signature is about."""
    signed = {key: value for key, value in entry.items() if key not in ("signature", "verified")}
    return {"export": format_, **signed}


def _read(path: Path, key: str) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_bytes())[key]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"'{path}' is damaged: {first_line(error)}; export again") from error


def digest(path: Path) -> str:
    """Computes the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checked_onnx(path: Path) -> "ModelProto":
    """Parses an ONNX file, without its external data, and checks that it is complete and that its folder has all data.

    Raises:
        UserError: the file is missing, truncated or not ONNX, or refers to a file outside its folder.
    """
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from error
    except Exception as error:  # protobuf's error class moves between releases
        raise UserError(f"{path} is truncated or not an ONNX file") from error
    folder = path.resolve().parent
    for tensor in _tensors(model):
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), None)
        if location is None:
            continue
        target = (folder / location).resolve()
        if Path(location).is_absolute() or not target.is_relative_to(folder):
            raise UserError(f"{path}: tensor '{tensor.name}' lies in '{location}', outside the model's folder; refused")
        if not target.is_file():
            raise UserError(f"{path}: its data file '{location}' is missing; it must lie in the model's folder")
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:  # the message quotes a damaged name
        raise UserError(f"{path} is truncated or not valid ONNX: {first_line(error)}") from error
    return model


def _tensors(message: Any) -> "Iterator[TensorProto]":
    """Yields every tensor in a protobuf message, at any depth: initializers, attributes, subgraphs, functions."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for child in value if field.is_repeated else [value]:
            if field.message_type.name == "TensorProto":
                yield child
            else:
                yield from _tensors(child)
