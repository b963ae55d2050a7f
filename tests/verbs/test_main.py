"""What `plcourse` does before it imports torch: help, versions, errors in one line, and where output goes."""

import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from plcourse import __version__, catalog
from plcourse.errors import Interrupted, RunFailed, UserError

pytestmark = pytest.mark.usefixtures("suite")

FLAGS = {
    "fit": ("--config", "--run ", "--ckpt_path", "--print_config", "--runs_root", "--trust", "--help_all"),
    "export": (
        "--run",
        "--format",
        "--preprocess",
        "--probabilities",
        "--max_drop",
        "--ckpt_path",
        "--allow_untrained",
    ),
    "sweep": ("--config", "--arms", "--seeds", "--grid", "--n_jobs", "--resume", "--runs_root"),
}


class TestMain:
    @pytest.mark.parametrize("argv", [[], ["-h"], ["--help"]])
    def test_root_help(self, typed, argv):
        status, out, err = typed(*argv)
        assert (status, err) == (0, "")
        assert all(f"\n  {verb} " in out for verb in catalog.VERBS)

    @pytest.mark.parametrize("verb", list(catalog.VERBS))
    def test_verb_help(self, typed, verb):
        assert typed(verb, "-h") == typed(verb, "--help")
        status, out, err = typed(verb, "-h")
        assert (status, err) == (0, "")
        if verb in ("fit", "validate", "test", "predict"):
            assert ("--then" in out) == (verb == "fit")
            assert ("--allow_untrained" in out) == (verb != "fit")
        if verb == "benchmark":
            assert all(name in out for name in catalog.BENCHMARKS)
            assert "--world_sizes" in typed("benchmark", "scaling", "-h")[1]
            return
        for flag in FLAGS.get(verb, FLAGS["fit"]) if catalog.VERBS[verb].group == "run" else ():
            assert flag in out

    def test_version(self, typed):
        assert typed("--version") == (0, f"plcourse {__version__}\n", "")

    def test_an_unknown_verb(self, refused):
        assert "did you mean 'fit'?" in refused("fitt", "-c", "x")
        assert "did you mean 'test'?" in refused("TEST")
        assert "fit, validate, test, predict, export, sweep, benchmark, ls, cat, cp, compare" in refused("train")
        assert "did you mean '--version'?" in refused("--verson")

    def test_a_flag_before_the_verb(self, refused):
        line = refused("--config", "my file.yaml", "fit", "--trainer.max_epochs", "3")
        assert "plcourse fit --config 'my file.yaml' --trainer.max_epochs 3" in line
        assert "plcourse test -c x" in refused("-c", "x", "test")
        assert "plcourse fit --config=x" in refused("--config=x", "fit")
        assert "plcourse fit -c x" in refused("-c", "x")

    @pytest.mark.medium
    def test_python_m(self, tmp_path):
        done = subprocess.run(
            [sys.executable, "-m", "plcourse", "--version"], capture_output=True, text=True, check=True
        )
        assert done.stdout == f"plcourse {__version__}\n"

    @pytest.mark.medium
    def test_a_closed_pipe_is_silent(self):
        command = f"{sys.executable} -m plcourse ls | true; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    @pytest.mark.medium
    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_a_full_disk_is_one_line(self):
        done = subprocess.run(
            f"{sys.executable} -m plcourse -h > /dev/full", shell=True, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert done.stderr == "plcourse: error: cannot write the output: No space left on device\n"

    @pytest.mark.medium
    def test_the_installed_command(self):
        command = shutil.which("plcourse", path=Path(sys.executable).parent)
        assert command
        done = subprocess.run([command, "fitt"], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("plcourse: error: unknown verb 'fitt'")


class TestRunningVerbs:
    @pytest.fixture
    def verb(self, monkeypatch):
        """Puts a function in the place of the running verbs."""

        def install(run_verb):
            module: Any = types.ModuleType("plcourse.cli")
            module.run_verb = run_verb
            monkeypatch.setitem(sys.modules, "plcourse.cli", module)

        return install

    def test_gets_the_verb_and_what_follows(self, typed, verb):
        seen = []
        verb(lambda *args: seen.append(args))
        assert typed("test", "--run", "x", "--help_all")[0] == 0
        assert seen == [("test", ["--run", "x", "--help_all"])]

    @pytest.mark.parametrize(
        ("error", "status", "line"),
        [
            (UserError("no such key\nhere"), 2, "error: no such key here"),
            (RunFailed("NaN in step 3"), 1, "error: NaN in step 3"),
            (KeyboardInterrupt(), 130, "interrupted by SIGINT"),
            (Interrupted(signal.SIGINT), 130, "interrupted by SIGINT"),
            (Interrupted(signal.SIGTERM), 143, "interrupted by SIGTERM"),
            (
                ZeroDivisionError("x\ny"),
                1,
                "error: ZeroDivisionError: x (PLCOURSE_DEBUG=1 shows the traceback)",
            ),
            (BrokenPipeError(32, "Broken pipe"), 1, "error: [Errno 32] Broken pipe"),
        ],
    )
    def test_errors_are_one_line_and_a_status(self, typed, verb, monkeypatch, error, status, line):
        monkeypatch.setattr("plcourse.__main__._drop_stdout", lambda: None)

        def fail(*_args):
            raise error

        verb(fail)
        assert typed("fit") == (status, "", f"plcourse: {line}\n")
        monkeypatch.setenv("PLCOURSE_DEBUG", "1")
        _, _, err = typed("fit")
        if not isinstance(error, BrokenPipeError):
            assert "Traceback" in err
        assert err.endswith(f"plcourse: {line}\n")

    def test_a_parser_that_exits_by_itself(self, typed, verb):
        verb(lambda *_: sys.exit(0))
        assert typed("fit", "--print_config")[0] == 0
        verb(lambda *_: sys.exit(3))
        assert typed("fit")[0] == 3


@pytest.mark.medium
@pytest.mark.parametrize("command", ["ls", "cat ddp/mlp", "frobnicate"])
def test_closed_streams_are_like_dev_null(command):
    """As under a daemon that closes standard input, output and error."""
    for closing in (">&-", ">&- 2>&- <&-"):
        started = ["bash", "-c", f'exec "$0" -m plcourse {command} {closing}', sys.executable]
        done = subprocess.run(started, capture_output=True, text=True, check=False)
        refused = command == "frobnicate"
        assert done.returncode == (2 if refused else 0)
        assert done.stderr.startswith("plcourse: error: unknown verb") == (refused and closing == ">&-")
        assert "Error" not in done.stderr


@pytest.mark.medium
def test_a_removed_working_directory_is_named(tmp_path):
    (tmp_path / "gone").mkdir()
    code = "import os, sys; os.rmdir(os.getcwd()); from plcourse.__main__ import main; main(['ls', 'runs'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "gone", capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "plcourse: error: the current folder was removed; change into one that exists\n"
