"""An exported program from somebody else is not opened, whatever its folder says about it."""

import contextlib
import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from plcourse import Run
from plcourse.errors import UserError
from plcourse.export import latency
from plcourse.export.artifacts import Artifacts, digest
from plcourse.export.card import Card
from plcourse.export.exported import ExportedModel
from plcourse.export.runners import open_exported
from plcourse.export.worker import Worker
from plcourse.runs import signatures

PROGRAMS = ("torch_export", "torchscript_trace", "torchscript_script")
Forge = Callable[[dict[str, Any]], object]


class Marker:
    """A pickle that makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def gift(exported: Run, tmp_path: Path) -> Run:
    """A copy of one's own run, which this user may open."""
    shutil.copytree(exported.path, tmp_path / "gift")
    return Run(tmp_path / "gift")


def forge(run: Run, change: Forge) -> None:
    """Rewrites the manifest of a run."""
    path = Artifacts(run).manifest_path
    content = json.loads(path.read_text())
    change(content["artefacts"])
    path.write_text(json.dumps(content))


def with_marker(run: Run, marker: Path) -> Path:
    """Puts a pickle that makes the marker into the torch.export file of a run, and its new hash into the manifest."""
    path, buffer = Artifacts(run).path("torch_export"), io.BytesIO()
    torch.save((Marker(marker),), buffer)
    files = [(each, zipfile.ZipFile(path).read(each)) for each in zipfile.ZipFile(path).namelist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in files:
            archive.writestr(name, buffer.getvalue() if "sample_inputs" in name else content)
    forge(run, lambda entries: entries["torch_export"].update(sha256=digest(path), bytes=path.stat().st_size))
    return path


def test_a_pickle_in_a_forged_file_runs_only_if_the_user_trusts_the_file(gift: Run, tmp_path: Path) -> None:
    path = with_marker(gift, marker := tmp_path / "marker")
    message = rf"'?{path}'? is a program without your signature.*--trust_artifact {path}"
    for opening in (
        lambda: open_exported(gift, "torch_export"),
        lambda: ExportedModel(str(gift.path), "torch_export"),
        lambda: Worker(gift, "torch_export", 1),
    ):
        with pytest.raises(UserError, match=message):
            opening()
        assert not marker.exists()
    with signatures.trusting([path]), contextlib.suppress(UserError):  # it has no usable inputs
        ExportedModel(str(gift.path), "torch_export")
    assert marker.exists(), "otherwise the file would be harmless and this test empty"


@pytest.mark.parametrize("format_", PROGRAMS)
def test_ones_own_programs_open_wherever_they_are(gift: Run, format_: str) -> None:
    open_exported(gift, format_)
    with Worker(gift, format_, 1):
        pass


@pytest.mark.parametrize("format_", PROGRAMS)
@pytest.mark.parametrize("change", [
    lambda entries, name: entries[name].pop("signature"),
    lambda entries, name: entries[name].update(signature="0" * 64),
    lambda entries, name: entries[name].update(bytes=1),
    lambda entries, name: entries[name]["card"].update(opset=99),
    lambda entries, name: entries[name].update(signature=entries[next(n for n in PROGRAMS if n != name)]["signature"]),
])  # fmt: skip
def test_an_entry_that_was_changed_is_not_signed(gift: Run, format_: str, change: Any) -> None:
    forge(gift, lambda entries: change(entries, format_))
    with pytest.raises(UserError, match="without your signature"):
        open_exported(gift, format_)
    with signatures.trusting([gift.path]):
        open_exported(gift, format_)


def test_a_file_that_was_changed_is_not_the_listed_one(gift: Run) -> None:
    path = Artifacts(gift).path("torch_export")
    path.write_bytes(path.read_bytes() + b"\0")
    with signatures.trusting([path]), pytest.raises(UserError, match=r"is not the file that manifest\.json lists"):
        open_exported(gift, "torch_export")


def test_another_user_can_open_data_but_no_program(gift: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other"))
    for name in Artifacts(gift).manifest:
        if name in PROGRAMS:
            with pytest.raises(UserError, match="without your signature"):
                open_exported(gift, name)
        else:
            open_exported(gift, name)
    assert not (tmp_path / "other").exists()
    for name in ("onnx", *PROGRAMS):
        with signatures.trusting([Artifacts(gift).path(name)]):
            open_exported(gift, name)


def test_a_program_that_calls_itself_onnx_is_not_opened(gift: Run, tmp_path: Path) -> None:
    source, target = with_marker(gift, marker := tmp_path / "marker"), Artifacts(gift).path("onnx")
    shutil.copy(source, target)
    forge(gift, lambda entries: entries.update(onnx=entries["torch_export"]))
    with pytest.raises(UserError, match=r"is not the file that manifest\.json lists"):
        open_exported(gift, "onnx")
    forge(gift, lambda entries: entries["onnx"]["card"].update(format="onnx"))
    with pytest.raises(UserError, match="not an ONNX file"):
        open_exported(gift, "onnx")
    assert not marker.exists()


def test_an_export_into_a_foreign_run_signs_only_what_it_writes(gift: Run, tmp_path: Path) -> None:
    with_marker(gift, marker := tmp_path / "marker")
    artifacts = Artifacts(gift)
    card = Card.of(artifacts.manifest["torchscript_trace"]["card"])
    content = artifacts.path("torchscript_trace").read_bytes()

    def write(path: Path) -> Card:
        path.write_bytes(content)
        return card

    artifacts.add("torchscript_trace", write)
    artifacts.mark("torch_export", True)
    open_exported(gift, "torchscript_trace")
    with pytest.raises(UserError, match="without your signature"):
        open_exported(gift, "torch_export")
    assert not marker.exists()


def test_without_a_key_an_export_works_and_says_what_it_will_need(
    gift: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    artifacts = Artifacts(gift)
    path = artifacts.path("torch_export")
    card, content = Card.of(artifacts.manifest["torch_export"]["card"]), path.read_bytes()

    def write(temporary: Path) -> Card:
        temporary.write_bytes(content)
        return card

    artifacts.add("torch_export", write)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "no key to sign with" in said
    assert "torch_export is written without a signature and will need --trust_artifact" in said
    assert hashlib.sha256(content).hexdigest() == artifacts.manifest["torch_export"]["sha256"]
    with signatures.trusting([path]), Worker(gift, "torch_export", 1):  # as the verification opens it
        pass


def test_a_race_of_formats_leaves_foreign_programs_out(gift: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    artifacts = Artifacts(gift)
    source = artifacts.manifest["onnx"]["card"]["source"]["sha256"]
    names = tuple(artifacts.manifest)
    assert set(latency.candidates(artifacts, source, names)[0]) == set(names)
    forge(gift, lambda entries: [entries[name].pop("signature") for name in PROGRAMS])
    cards, left_out = latency.candidates(artifacts, source, names)
    assert set(cards) == set(names) - set(PROGRAMS)
    assert set(left_out) == set(PROGRAMS)
    assert all("--trust_artifact" in why for why in left_out.values())
