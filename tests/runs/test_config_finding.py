"""Which file a config's name means: packaged, in a folder, or piped."""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from plcourse.runs.config_yaml import parse_config
from plcourse.runs.configs import find_config, own_name
from run_folders import message


class TestFinding:
    @pytest.mark.parametrize("name", ["ddp/two_processes", "ddp/two_processes.yaml"])
    def test_by_packaged_name(self, packaged, name):
        found = find_config(name)
        assert (found.name, found.packaged, found.run_name) == (
            "ddp/two_processes",
            True,
            "ddp/two_processes",
        )
        assert found.label == str(packaged / "ddp/two_processes.yaml")
        assert parse_config(found) == {"model": "ImageClassifier"}

    @pytest.mark.parametrize("name", ["ddp/two_processes", "ddp/two_processes.yaml"])
    def test_an_existing_file_wins_over_a_name(self, packaged, name):
        Path("ddp").mkdir()
        Path(name).write_text("a: 1\n")
        found = find_config(name)
        assert (found.packaged, found.run_name) == (False, "own/two_processes")
        assert parse_config(found) == {"a": 1}

    def test_a_folder_does_not_win_over_a_name(self, packaged):
        Path("ddp/two_processes").mkdir(parents=True)
        assert find_config("ddp/two_processes").packaged

    def test_the_path_of_a_packaged_file_is_that_config(self, packaged):
        found = find_config("../configs/ddp/two_processes.yaml")
        assert (found.name, found.packaged, found.label) == (
            "ddp/two_processes",
            True,
            "../configs/ddp/two_processes.yaml",
        )

    def test_a_pipe_is_read_once(self, packaged):
        read, write = os.pipe()
        os.write(write, b"a: 1\n")
        os.close(write)
        found = find_config(f"/dev/fd/{read}")
        os.close(read)
        assert parse_config(found) == {"a": 1}
        assert found.run_name == "own/pipe"

    @pytest.mark.medium
    def test_a_fifo(self, packaged):
        os.mkfifo("later.yaml")
        writer = threading.Thread(target=lambda: Path("later.yaml").write_text("a: 1\n"))
        writer.start()
        assert parse_config(find_config("later.yaml")) == {"a": 1}
        writer.join()

    @pytest.mark.medium
    def test_process_substitution(self, packaged):
        code = (
            "import sys; from plcourse.runs.configs import *; from plcourse.runs.config_yaml import *; "
            "print(parse_config(find_config(sys.argv[1])))"
        )
        command = f"{sys.executable} -c '{code}' <(echo 'a: 1')"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
        assert done.stdout == "{'a': 1}\n"

    @pytest.mark.parametrize("typo", ["ddp/two_proceses", "two_processes", "dpd/two_processes.yaml"])
    def test_an_unknown_name_gets_the_nearest(self, packaged, typo):
        text = message(find_config, typo)
        assert "did you mean 'ddp/two_processes'?" in text
        assert "plcourse ls" in text
        assert repr(typo) in text

    @pytest.mark.parametrize("name", ["", "../../etc/passwd\x00", "x" * 300, "a\nb", "ddp/one_process/x"])
    def test_odd_names_are_one_line(self, packaged, name):
        message(find_config, name)

    def test_a_lesson_alone_lists_its_configs(self, packaged):
        assert "ddp/one_process, ddp/two_processes" in message(find_config, "ddp")

    def test_a_folder(self, packaged):
        Path("some").mkdir()
        assert "'some' is a folder" in message(find_config, "some")
        Path("some/run.json").touch()
        assert "--run some" in message(find_config, "some")

    def test_not_utf8_names_the_line(self, packaged):
        Path("latin.yaml").write_bytes(b"a: 1\nb: \xe9\n")
        assert message(find_config, "latin.yaml").startswith("latin.yaml:2: not UTF-8")

    def test_larger_than_a_config_can_be(self, packaged):
        Path("big.yaml").write_text("# x\n" * (1 << 18))
        assert find_config("big.yaml")
        Path("big.yaml").write_text("# x\n" * (1 << 18) + "#")
        assert "larger than 1 MiB" in message(find_config, "big.yaml")
        assert "larger than 1 MiB" in message(find_config, "/dev/zero")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_unreadable(self, packaged):
        Path("secret.yaml").touch(0)
        assert "Permission denied" in message(find_config, "secret.yaml")

    def test_a_link_to_itself(self, packaged):
        Path("loop.yaml").symlink_to("loop.yaml")
        assert "cannot read config 'loop.yaml'" in message(find_config, "loop.yaml")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("some/dir/my.yaml", "own/my"),
        ("my.yml", "own/my"),
        ("../..", "own/config"),
        ("../.hidden.yaml", "own/hidden"),
        ("-rf.yaml", "own/rf"),
        ("a b\n\x1bc.yaml", "own/a_b_c"),
        ("C:\\x\\y.yaml", "own/y"),
        ("mod\u00e8le.yaml", "own/mod\u00e8le"),
        ("/dev/fd/63", "own/pipe"),
        ("", "own/config"),
    ],
)
def test_own_configs_get_safe_names(path, name):
    assert own_name(path) == name


def test_own_names_fit_every_file_system():
    assert len(own_name("\u00e8" * 200).encode()) <= 110
    assert re.fullmatch(r"own/[\w.-]+", own_name("\udcff\udcfe ../x\u2028y"))
