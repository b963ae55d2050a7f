"""Whether a run still runs, what git and the versions were, and what a killed process leaves."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plcourse.runs import environment as environment_module
from plcourse.runs.environment import environment
from plcourse.runs.run import Run, list_runs
from run_folders import NAME, made, message, script


class TestStatus:
    @pytest.mark.medium
    def test_a_killed_process_reads_killed(self, root):
        code = "run = Run.create('ddp/two_processes', sys.argv[1], {})\nprint(run.path, flush=True); time.sleep(100)"
        process: Any = script(code, root, stdout=subprocess.PIPE)
        run = Run(process.stdout.readline().strip(), root)
        assert run.status == "running"
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert run.status == "killed"  # while it is still a zombie
        process.communicate()
        assert run.status == "killed"
        assert run.record["status"] == "running"
        run.resume(command="again")
        assert (run.status, run.record["pid"], run.record["command"]) == ("running", os.getpid(), "again")

    def test_another_process_with_the_same_number_is_not_the_run(self, root):
        run = Run.create(NAME, root, {})
        run.update(pid_start="some other boot 1")
        assert run.status == "killed"

    def test_another_machine_is_not_judged(self, root):
        run = Run.create(NAME, root, {"pid": 2**30, "hardware": {"hostname": "elsewhere"}})
        assert run.status == "running"

    def test_a_system_that_tells_nothing_is_not_judged(self, root, monkeypatch):
        run = Run.create(NAME, root, {})
        monkeypatch.setattr(environment_module, "process_start", lambda pid: None)
        assert run.status == "running"

    @pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 2}', "\xff"])
    def test_a_broken_record(self, root, content):
        run = made(root, "20260101-000000")
        (run.path / "run.json").write_bytes(content.encode("latin-1"))
        assert run.status == "unreadable"
        assert "run.json" in message(lambda: run.record)
        assert [found.status for found in list_runs(root)] == ["unreadable"]


def git(folder: Path, command: str) -> None:
    options = "-c core.fsmonitor=false -c user.name=a -c user.email=a@b"
    subprocess.run(f"git {options} {command}".split(), check=True, cwd=folder)


class TestEnvironment:
    @pytest.mark.medium
    def test_git(self, root, tmp_path):
        assert environment()["git"] is None
        git(tmp_path, "init -q")
        git(tmp_path, "commit -q --allow-empty -m first")
        state = environment()["git"]
        assert len(state["commit"]) == 40
        assert state["dirty"] is False
        (tmp_path / "new").touch()
        git(tmp_path, "add new")
        assert environment()["git"]["dirty"] is True

    @pytest.mark.medium
    def test_a_repository_cannot_start_a_program(self, root, tmp_path):
        git(tmp_path, "init -q")
        subprocess.run(["git", "config", "core.fsmonitor", "touch started; true"], check=True, cwd=tmp_path)
        (tmp_path / "new").touch()
        git(tmp_path, "add new")
        git(tmp_path, "commit -q -m first")
        assert environment()["git"]["dirty"] is False
        assert not (tmp_path / "started").exists()

    def test_without_git(self, root, monkeypatch):
        monkeypatch.setenv("PATH", "")
        assert environment()["git"] is None

    def test_the_command_as_it_can_be_typed_again(self, root, monkeypatch):
        monkeypatch.setattr(sys, "argv", ["/x/plcourse/__main__.py", "fit", "-c", "my file.yaml"])
        assert environment()["command"] == "plcourse fit -c 'my file.yaml'"

    @pytest.mark.medium
    def test_nothing_heavy_is_imported(self, root):
        code = "environment(); list_runs('.'); assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
        assert script(code).wait() == 0
