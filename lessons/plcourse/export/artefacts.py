"""Exported files on disk: whole or not there, listed with their checksums, and refused where they could do harm.

A TorchScript or torch.export file is a program; loading a foreign one runs what its author wrote. So such a file is
opened only if ``export/manifest.json`` of the run that it lies in lists its SHA-256. An ONNX file is data, but it may
name further files; those must lie in its own folder. Neither torch nor onnxruntime is imported here.
"""

import hashlib
import json
import shlex
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from plcourse.core.environment import environment
from plcourse.core.errors import UserError, first_line, nearest
from plcourse.core.export_request import FORMATS
from plcourse.core.files import publish, write_json
from plcourse.core.runs import Run
from plcourse.export.card import Card

FILES = {
    **dict.fromkeys(("onnx", "onnx_int8", "onnx_int8_dynamic"), "model.onnx"),
    **dict.fromkeys(("torchscript_trace", "torchscript_script"), "model.pt"),
    "torch_export": "model.pt2",
}
assert set(FILES) == set(FORMATS)


class Artefacts:
    """The exported files of one run, below its ``export/``.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.folder = run.path / "export"
        self.manifest_path = self.folder / "manifest.json"

    @property
    def manifest(self) -> dict[str, Any]:
        """What is known of each format: ``file``, ``sha256``, ``bytes``, ``verified``, ``card``.

        Raises:
            UserError: the file is broken.
        """
        if not self.manifest_path.is_file():
            return {}
        try:
            return json.loads(self.manifest_path.read_bytes())["artefacts"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"'{self.manifest_path}' is damaged: {first_line(error)}; export again") from error

    def path(self, format_: str) -> Path:
        """Where the file of a format is or will be."""
        return self.folder / format_ / FILES[format_]

    def temporary(self, format_: str) -> Path:
        """Where it is written before it gets its name."""
        path = self.path(format_)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.with_name(f".{path.stem}.tmp{path.suffix}")

    def add(self, format_: str, card: Card) -> None:
        """Gives the written file its name and lists it, not yet verified.

        A kill in between leaves a file whose checksum is not listed, which is refused when it is opened.
        """
        temporary, path = self.temporary(format_), self.path(format_)
        entry = {
            "file": path.relative_to(self.folder).as_posix(),
            "sha256": digest(temporary),
            "bytes": temporary.stat().st_size,
            "verified": False,
            "card": asdict(card),
        }
        publish(temporary, path)
        self._write({**self.manifest, format_: entry})

    def discard(self, format_: str) -> None:
        """Takes back what was half written."""
        with suppress(OSError):
            self.temporary(format_).unlink(missing_ok=True)
            self.path(format_).parent.rmdir()  # only where it is empty

    def mark(self, format_: str, verified: bool) -> None:
        """Records the outcome of the verification."""
        manifest = self.manifest
        self._write({**manifest, format_: {**manifest[format_], "verified": verified}})

    @property
    def certificate(self) -> dict[str, dict[str, Any]]:
        """The rows of ``verification.json`` by format, empty before the first."""
        path = self.folder / "verification.json"
        if not path.is_file():
            return {}
        try:
            return json.loads(path.read_bytes())["rows"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"'{path}' is damaged: {first_line(error)}; export again") from error

    def certify(self, rows: list[dict[str, Any]]) -> None:
        """Writes rows into ``verification.json``; those of formats that were verified before and stay are kept."""
        new = {row["format"]: row for row in rows}
        old = {name: row for name, row in self.certificate.items() if name not in new}
        here = {key: value for key, value in environment().items() if key in ("versions", "hardware")}
        self.folder.mkdir(exist_ok=True)
        write_json(self.folder / "verification.json", {"run": self.run.name, "rows": {**new, **old}, **here})

    def _write(self, artefacts: dict[str, Any]) -> None:
        write_json(self.manifest_path, {"run": self.run.name, "artefacts": artefacts})

    def check(self, format_: str) -> tuple[Path, Card]:
        """The file of a format and its card, after it proved to be the one that was exported.

        Raises:
            UserError: it was not exported, or is not the file that the manifest lists.
        """
        manifest = self.manifest
        if format_ not in manifest:
            known = ", ".join(manifest) or "none"
            raise UserError(
                f"run {self.run.name} has no export '{format_}', it has {known}{nearest(format_, manifest)}; "
                f"plcourse export --run {shlex.quote(str(self.run.path))} --format {format_}"
            )
        path, entry = self.path(format_), manifest[format_]
        if not path.is_file() or digest(path) != entry["sha256"]:
            raise UserError(f"{path} is not the file that {self.manifest_path.name} lists; nothing of it was loaded")
        return path, Card.of(entry["card"])


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checked_onnx(path: Path) -> Any:
    """An ONNX file, parsed, complete, and with no data outside its folder.

    Returns:
        The ``ModelProto``, external data not loaded.

    Raises:
        UserError: it is missing, truncated, no ONNX, or refers to a file outside its own folder.
    """
    import onnx

    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise UserError(f"cannot read '{path}': {error.strerror}") from error
    except Exception as error:  # protobuf's own, which moves between its releases
        raise UserError(f"{path} is truncated or no ONNX file") from error
    folder = path.resolve().parent
    for tensor in _tensors(model):
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), None)
        if location is None:
            continue
        target = (folder / location).resolve()
        if Path(location).is_absolute() or not target.is_relative_to(folder):
            raise UserError(f"{path}: tensor '{tensor.name}' lies in '{location}', outside the model's folder; refused")
        if not target.is_file():
            raise UserError(f"{path}: its data file '{location}' is missing; it must lie beside the model")
    try:
        onnx.checker.check_model(str(path))
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:  # a damaged name, which the message quotes
        raise UserError(f"{path} is truncated or not valid ONNX: {first_line(error)}") from error
    return model


def _tensors(message: Any) -> Any:
    """Every tensor of a protobuf message, however deep: initializers, attributes, subgraphs, functions."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        children = value if field.is_repeated else [value]
        for child in children:
            if field.message_type.name == "TensorProto":
                yield child
            else:
                yield from _tensors(child)
