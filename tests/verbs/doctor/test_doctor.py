"""`plcourse doctor`: each finding says what is right, or what is wrong and how to fix it."""

import re
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from plcourse.__main__ import main
from plcourse.verbs.doctor import config, installation
from plcourse.verbs.doctor.findings import FIX, Finding, run_checks
from support import digits_config, write_config


@pytest.fixture
def asked(capsys, monkeypatch, tmp_path):
    """Runs doctor in this process; gives its status, output and last line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLCOURSE_RUNS", str(tmp_path / "runs"))

    def run(*words: str) -> tuple[int, str, str]:
        status: int = 0
        try:
            main(["doctor", *words])
        except SystemExit as error:
            status = error.code  # pyright: ignore[reportAssignmentType]  (main exits with numbers)
        out, err = capsys.readouterr()
        return status, out, err

    return run


class TestInstallation:
    @pytest.mark.medium
    def test_this_installation_needs_no_fix(self, asked):
        status, out, err = asked()
        assert (status, err) == (0, "")
        assert "fit together" in out
        assert "gloo starts and sums" in out
        assert "mnist5k: 5,000 images of 10 classes" in out
        assert out.endswith("nothing to fix\n")
        assert not Path("runs").exists()  # looked at, not made

    def test_wrong_versions_are_reported_with_a_command(self, monkeypatch):
        versions = {"pytorch-lightning": "2.6.2", "rich": None}
        needed = ["pytorch-lightning>=2.6,!=2.6.2", "rich>=14", "numpy>=2", "pytest>=8; extra == 'dev'"]
        monkeypatch.setattr(installation.metadata, "requires", lambda name: needed)
        monkeypatch.setattr(installation, "package_version", lambda name: versions.get(name, "3.0"))
        found = list(installation._versions())
        texts = {each.what: each.remedy for each in found if each.state == FIX}
        assert "compromised release" in texts["pytorch-lightning 2.6.2"]
        assert "pip install" in texts["rich is not installed"]

    def test_versions_with_known_vulnerabilities_are_noted(self, monkeypatch):
        versions = {"pillow": "12.3.0", "onnx": "1.22.0", "torch": "2.8.0+cpu"}
        monkeypatch.setattr(installation, "package_version", versions.get)
        found = list(installation._vulnerabilities())
        assert [(each.state, each.what.partition(" has")[0]) for each in found] == [
            ("note", "pillow 12.3.0"),
            ("note", "torch 2.8.0+cpu"),
        ]
        assert 'pip install "pillow>=13"' in found[0].remedy

    @pytest.mark.medium
    def test_a_torch_and_torchvision_that_do_not_match(self, monkeypatch):
        monkeypatch.setattr(installation, "_PAIR", "raise RuntimeError('operator torchvision::nms does not exist')")
        (found,) = run_checks([installation._torch_and_torchvision])
        assert found.state == FIX
        assert "torchvision::nms does not exist" in found.what

    def test_a_runs_root_that_cannot_be_written(self, tmp_path):
        (tmp_path / "file").touch()
        (found,) = run_checks([partial(installation._runs_root, Path("/proc/self/runs"))])
        assert found.state == FIX
        assert "--runs_root" in found.remedy

    def test_an_examination_that_fails_is_a_finding(self):
        def broken():
            raise RuntimeError("no\nluck")

        assert [each.what for each in run_checks([broken])] == ["broken: RuntimeError: no"]
        assert Finding("FIX", "a", "b").lines() == "FIX   a\n      b"


class TestConfig:
    @pytest.mark.medium
    def test_a_valid_config(self, asked):
        status, out, err = asked("-c", str(write_config(Path("a.yaml"), digits_config())))
        assert (status, err) == (0, "")
        assert "no sample or copy of it is in two parts" in out
        assert "val/loss is monitored and logged" in out
        assert "activations of a batch" in out
        assert not Path("runs").exists()

    @pytest.mark.medium
    def test_a_monitor_that_nobody_logs(self, asked):
        broken = digits_config()
        broken["trainer"]["callbacks"][0]["init_args"]["monitor"] = "val/los"
        status, out, err = asked("-c", str(write_config(Path("a.yaml"), broken)))
        assert status == 1
        assert "FIX   the monitor: monitor 'val/los' is never logged; did you mean 'val/loss'?" in out
        assert "1 problem(s) to fix" in err

    @pytest.mark.medium
    def test_a_batch_larger_than_the_data_and_a_trainer_flag(self, asked):
        file = write_config(Path("a.yaml"), digits_config())
        status, out, _ = asked("-c", str(file), "--data.init_args.batch_size", "9999", "--trainer.limit_val_batches=0")
        assert status == 1
        assert "a batch of 9999 on 1 process(es) is larger than the" in out
        assert "limit_val_batches is 0" in out

    @pytest.mark.medium
    def test_folds_are_tried_as_one_fit(self, asked):
        status, out, _ = asked("-c", "kfold/classifier")
        assert status == 0
        assert "10 folds" not in out
        assert not re.search(r"activations of a batch 0\b(?!\.)", out)

    @pytest.mark.medium
    def test_duplicates_across_splits(self, asked, tmp_path):
        from PIL import Image

        for part, seeds in (("train", range(8)), ("val", range(8, 10)), ("test", (10, 3))):
            for number in seeds:
                for name in ("a", "b"):
                    folder = tmp_path / "images" / part / name
                    folder.mkdir(parents=True, exist_ok=True)
                    pixels = bytes((number * 31 + x * 7 + ord(name)) % 256 for x in range(64))
                    Image.frombytes("L", (8, 8), pixels).save(folder / f"{number}.png")
        own = digits_config(data__init_args__batch_size=4)
        own["data"]["init_args"].update(source="image_folder", root="images")
        own["model"]["init_args"].update(num_classes=2)
        own["model"]["init_args"]["network"]["init_args"]["num_classes"] = 2
        status, out, _ = asked("-c", str(write_config(Path("a.yaml"), own)))
        assert status == 0
        assert "image_folder: 2 training samples equal one of val or test and are left out" in out
        assert "no sample or copy of it is in two parts (train 14, val 4, test 4)" in out

    def test_a_data_module_that_leaks(self):
        source = SimpleNamespace(ids=["a", "b", "c"], hashes=np.array([1, 2, 1], dtype=np.uint64))
        parts = {"train": np.array([0, 1]), "test": np.array([2])}
        (found,) = config._duplicates(SimpleNamespace(images=SimpleNamespace(source=source, parts=parts)))
        assert found.state == FIX
        assert "1 samples are in more than one part" in found.what
        assert "train and test (a)" in found.remedy

    def test_classes(self):
        labels = np.array([0] * 50 + [1] * 3)
        data = SimpleNamespace(labels=labels, label_names=["cat", "dog", "fox"])
        absent, skewed = config._classes(data)
        assert absent.what == "no sample of class fox to train on"
        assert (skewed.state, skewed.what) == ("note", "2 classes, from 3 samples (dog) to 50 (cat)")

    @pytest.mark.medium
    def test_an_accelerator_or_a_number_of_nodes_that_this_machine_lacks(self, asked):
        status, out, _ = asked("-c", "ddp/mlp", "--trainer.accelerator", "tpu")
        assert status == 1
        assert "FIX   it cannot be built here" in out
        status, out, _ = asked("-c", "ddp/two_nodes")
        assert status == 0
        assert "batches of 32 on 2 process(es)" in out

    @pytest.mark.medium
    def test_mistakes(self, asked):
        assert asked("-c", "ddp/one_proces")[0] == 2
        Path("b.yaml").write_text(yaml.safe_dump({"trainer": {"max_epoch": 3}}))
        status, _, err = asked("-c", "b.yaml")
        assert status == 2
        assert "max_epochs" in err
        assert "give one of them" in asked("-c", "x", "--network", "a:1")[2]


class TestNetwork:
    @pytest.mark.medium
    def test_two_processes_connect(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "plcourse", "doctor", "--network", f"127.0.0.1:{port}", "--timeout", "60"]
        nodes = [
            subprocess.Popen([*command, "--node_rank", str(rank)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            for rank in (1, 0)
        ]
        for node in nodes:
            out, err = node.communicate(timeout=120)
            assert node.returncode == 0, err
            assert b"all 2 nodes met" in out
            assert b"gloo sums over the nodes" in out

    @pytest.mark.medium
    def test_nodes_that_never_connect(self, asked):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        status, out, _ = asked("--network", address, "--node_rank", "0", "--timeout", "1")
        assert status == 1
        assert "node(s) 1 did not connect within 1 s" in out
        status, out, _ = asked("--network", address, "--node_rank", "1", "--timeout", "1")
        assert status == 1
        assert "nothing listens there" in out

    @pytest.mark.medium
    def test_mistakes(self, asked):
        assert "give HOST:PORT" in asked("--network", "here")[2]
        assert "--node_rank is None" in asked("--network", "a:1")[2]
        assert "needs --network" in asked("--nodes", "3")[2]
        status, out, _ = asked("--network", "127.0.0.1:29400", "--node_rank", "1", "--interface", "nope0")
        assert status == 1
        assert "the interfaces here are" in out
