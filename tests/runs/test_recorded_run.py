"""A run that version 0.1.0 recorded, with the module paths of its classes, is still a run of this version.

`tests/runs/recorded/run_0_1_0` was killed at step 28 of 40, 21 of them in its last checkpoint; `uninterrupted.json`
has what the same config gave with 0.1.0 when nothing killed it.
"""

import base64
import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from plcourse import Run
from support import Command

RECORDED = Path(__file__).parent / "recorded" / "run_0_1_0"
ALONE = json.loads((RECORDED / "uninterrupted.json").read_text())


@pytest.fixture
def recorded(runs: Path) -> Run:
    folder = runs / "own" / "run" / "20261130-113142"
    shutil.copytree(RECORDED, folder)
    record = json.loads((folder / "run.json").read_text())
    record["hardware"]["hostname"] = socket.gethostname()  # only here can it be seen that its process is gone
    (folder / "run.json").write_text(json.dumps(record))
    return Run.load(str(folder), runs)


def numbers(table: str) -> list[float]:
    return [float(value) for line in table.splitlines()[1:] for value in line.split(",") if "/" not in value]


def test_it_resumes_to_the_same_end_and_is_tested_and_exported(recorded: Run, forked: Command) -> None:
    assert "plcourse.ddp.data.ImageData" in recorded.config_path.read_text()
    forked("fit", "--run", recorded.path)
    last = torch.load(recorded.path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == ALONE["global_step"]
    for name, text in ALONE["weights"].items():
        expected = np.frombuffer(base64.b64decode(text), np.float32)
        # the same bits on the machine that recorded it; elsewhere sums may be rounded in another order
        np.testing.assert_allclose(last["state_dict"][name].numpy().ravel(), expected, rtol=1e-4, atol=1e-5)
    assert numbers((recorded.path / "metrics.csv").read_text()) == pytest.approx(numbers(ALONE["metrics"]), rel=1e-4)
    assert recorded.record["status"] == "finished"
    assert "changes" not in recorded.record, "a name in another spelling is no other setting"

    forked("test", "--run", recorded.path)
    assert recorded.eval("test")["settings"] == {}
    assert recorded.eval("test")["metrics"] == pytest.approx(ALONE["test"], rel=1e-4)
    forked("export", "--run", recorded.path, "--format", "torchscript", "--rounds", "1")
    assert (recorded.path / "export" / "manifest.json").is_file()

    forked("fit", "--run", recorded.path, "--trainer.max_epochs", "3")
    assert [change["settings"] for change in recorded.record["changes"]] == [{"trainer.max_epochs": [2, 3]}]
    text = recorded.config_path.read_text()
    assert "plcourse." not in text, "written anew, it has the names of the catalog"
    assert yaml.safe_load(text)["model"]["init_args"]["network"]["class_path"] == "MLP"
