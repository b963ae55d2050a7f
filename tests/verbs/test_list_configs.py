"""ls, cat, cp, help and mistakes, as a user types them."""

import json
import re
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from plcourse import __version__, catalog
from plcourse.__main__ import main
from plcourse.errors import Interrupted, RunFailed, UserError
from plcourse.runs.run import Run

HEADER = """\
# plcourse fit -c ddp/two_processes
# Two processes learn as one.
# verbs: fit, test
# needs: nothing
"""
TEXT = HEADER + "model: ImageClassifier  # caf\u00e9\r\n"


@pytest.fixture(autouse=True)
def suite(tmp_path, monkeypatch):
    """A configs folder with three configs, and an empty current folder."""
    root = tmp_path / "configs"
    (root / "ddp").mkdir(parents=True)
    (root / "gan").mkdir()
    (root / "ddp/two_processes.yaml").write_bytes(TEXT.encode())
    (root / "ddp/broken.yaml").write_text("model: x\n")
    (root / "gan/color.yaml").write_text(HEADER.replace("nothing", "gpu, a file").replace("fit, test", "test"))
    monkeypatch.setattr(catalog, "configs_dir", lambda: root)
    monkeypatch.setattr(catalog, "PACKAGE", tmp_path / "package")
    monkeypatch.delenv("PLCOURSE_RUNS", raising=False)
    monkeypatch.delenv("PLCOURSE_DEBUG", raising=False)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    return root


@pytest.fixture
def typed(capfdbinary):
    """Runs a command line; gives its status, output and errors."""

    def run(*argv: str) -> tuple[int, str, str]:
        status: Any = 0
        try:
            assert main(list(argv)) is None
        except SystemExit as error:
            status = error.code
            assert status != 0
        out, err = capfdbinary.readouterr()
        return status, out.decode(), err.decode()

    return run


@pytest.fixture
def refused(typed):
    """Runs a command line that is a bad request; gives its one line."""

    def run(*argv: str) -> str:
        status, out, err = typed(*argv)
        assert (status, out) == (2, "")
        assert re.fullmatch(r"plcourse: error: [^\n]+\n", err)
        return err

    return run


class TestLs:
    def test_all_lessons_with_their_configs(self, typed):
        status, out, err = typed("ls")
        assert (status, err) == (0, "")
        assert [int(number) for number in re.findall(r"^(\d\d)  ", out, re.M)] == list(range(12, 20))
        assert re.search(r"ddp/two_processes +Two processes learn as one\.", out)
        assert re.search(r"gan/color +\[needs gpu, a file\]", out)
        assert re.search(r"ddp/broken\s+\S*broken\.yaml:1:\s+the\s+first\s+line", out)

    @pytest.mark.parametrize("lesson", ["ddp", "12"])
    def test_one_lesson(self, typed, lesson):
        _, out, _ = typed("ls", lesson)
        assert "ddp/two_processes" in out
        assert "gan" not in out

    def test_json(self, typed):
        rows = json.loads(typed("ls", "--json")[1])
        assert [row["number"] for row in rows] == [*range(12, 20), None]
        color = rows[1]["configs"][0]
        assert (color["name"], color["needs"], color["verbs"]) == ("gan/color", ["gpu", "a file"], ["test"])
        assert rows[0]["configs"][0]["problem"]

    def test_sweeps(self, typed, suite, refused):
        assert "(no configs in this version)" in typed("ls", "sweeps")[1]
        (suite / "sweeps").mkdir()
        (suite / "sweeps/rates.yaml").write_text(HEADER.replace("fit, test", "sweep") + "arms: [ddp/two_processes]\n")
        out = typed("ls", "sweeps")[1]
        assert "sweeps/rates    Two processes learn as one." in out
        assert typed("ls")[1].endswith(out)
        assert json.loads(typed("ls", "sweeps", "--json")[1])[0]["configs"][0]["name"] == "sweeps/rates"
        assert typed("cat", "sweeps/rates")[1].endswith("arms: [ddp/two_processes]\n")
        assert "plcourse sweep -c rates.yaml" in typed("cp", "sweeps/rates", "rates.yaml")[1]
        assert "for the configs of runs" in refused("cat", "sweeps/rates", "--resolved")
        assert "plcourse sweep -c sweeps/rates" in refused("fit", "-c", "sweeps/rates")
        assert "did you mean 'sweeps'?" in refused("ls", "swep")

    def test_mistakes(self, refused):
        assert "did you mean 'ddp'?" in refused("ls", "dpd")
        assert "did you mean 'runs'?" in refused("ls", "run")
        assert "did you mean '--json'?" in refused("ls", "--jsn")
        assert "--runs_root" in refused("ls", "--runs_root")
        assert "has no effect without `runs`" in refused("ls", "ddp", "--runs_root", "x")
        assert "unknown argument 'b'" in refused("ls", "ddp", "b")


class TestLsRuns:
    def test_none_yet(self, typed, refused):
        assert "No runs in 'runs' yet" in typed("ls", "runs")[1]
        assert typed("ls", "runs", "--json")[1] == "[]\n"
        assert "'rusn'" in refused("ls", "runs", "--runs_root", "rusn")

    def test_a_table(self, typed):
        run = Run.create("ddp/two_processes", "runs", {"verb": "fit"})
        run.finish("finished", best={"metric": "val/accuracy", "value": 0.98765, "step": 9, "epoch": 1}, seconds=3723)
        broken = Run.create("ddp/two_processes", "runs", {})
        (broken.path / "run.json").write_text("{")
        _, out, _ = typed("ls", "runs")
        head, first, second = out.splitlines()
        assert head.split() == ["run", "status", "score", "when", "took"]
        assert first.split() == [broken.name, "unreadable", "-", "-", "-"]
        assert second.startswith(f"{run.name} ")
        assert "finished" in second
        assert "val/accuracy 0.9877" in second
        assert second.endswith("1 h 02 min")

    def test_sweeps_stand_among_the_runs(self, typed):
        run = Run.create("ddp/two_processes", "runs", {"verb": "fit"})
        folder = Path("runs/sweeps/rates/20990101-000000")
        folder.mkdir(parents=True)
        cells = [{"status": status} for status in ("finished", "finished", "failed")]
        times = {"created": "2099-01-01T00:00:00+00:00", "ended": "2099-01-01T00:03:20+00:00"}
        (folder / "sweep.json").write_text(json.dumps({"schema": 1, "status": "failed", "cells": cells, **times}))
        head, sweep, single = typed("ls", "runs")[1].splitlines()
        assert head.startswith("run")
        assert sweep.split()[:2] == ["sweeps/rates/20990101-000000", "failed"]
        assert "2 of 3 cells" in sweep
        assert sweep.endswith("3 min 20 s")
        assert single.startswith(run.name)
        row = json.loads(typed("ls", "runs", "--json")[1])[0]
        assert (row["verb"], row["cells"]) == ("sweep", {"total": 3, "finished": 2, "failed": 1})
        (folder / "sweep.json").write_text("{")
        assert "unreadable" in typed("ls", "runs")[1]

    def test_json_and_another_root(self, typed, monkeypatch):
        run = Run.create("ddp/two_processes", "elsewhere", {"verb": "fit", "best": {"value": None}})
        rows = json.loads(typed("ls", "runs", "--runs_root", "elsewhere", "--json")[1])
        assert (rows[0]["name"], rows[0]["status"], rows[0]["verb"]) == (run.name, "running", "fit")
        monkeypatch.setenv("PLCOURSE_RUNS", "elsewhere")
        assert run.name in typed("ls", "runs")[1]

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
    )
    def test_durations(self, typed, seconds, text):
        Run.create("own/x", "runs", {"seconds": seconds})
        assert typed("ls", "runs")[1].rstrip().endswith(text)

    def test_strange_records_are_listed(self, typed):
        Run.create("own/x", "runs", {"seconds": "long", "best": "good", "created": "yesterday", "hardware": None})
        status, out, _ = typed("ls", "runs")
        assert status == 0
        assert "running" in out


class TestCat:
    def test_the_bytes_of_the_file(self, typed):
        assert typed("cat", "ddp/two_processes") == (0, TEXT, "")

    def test_a_path(self, typed):
        Path("my.yaml").write_text("a: [not yaml\n")
        assert typed("cat", "my.yaml") == (0, "a: [not yaml\n", "")

    def test_resolved(self, typed, refused, tmp_path):
        assert "plcourse fit -c ddp/two_processes --print_config" in refused("cat", "--resolved", "ddp/two_processes")
        file = tmp_path / "configs/_resolved/ddp/two_processes.yaml"
        file.parent.mkdir(parents=True)
        file.write_text("all: of it\n")
        assert typed("cat", "ddp/two_processes", "--resolved") == (0, "all: of it\n", "")
        Path("my file.yaml").touch()
        assert "plcourse fit -c 'my file.yaml' --print_config" in refused("cat", "my file.yaml", "--resolved")

    def test_mistakes(self, refused):
        assert "did you mean 'ddp/two_processes'?" in refused("cat", "ddp/two_process")
        assert "did you mean '--resolved'?" in refused("cat", "x", "--reslved")
        assert "NAME_OR_PATH" in refused("cat")


class TestCp:
    @pytest.mark.parametrize(
        ("dest", "file"),
        [
            (".", "two_processes.yaml"),
            ("sub", "sub/two_processes.yaml"),
            ("sub/", "sub/two_processes.yaml"),
            ("my.yaml", "my.yaml"),
            ("sub/a b.yml", "sub/a b.yml"),
        ],
    )
    def test_to_a_folder_or_a_file(self, typed, dest, file):
        Path("sub").mkdir()
        status, out, err = typed("cp", "ddp/two_processes", dest)
        assert (status, err) == (0, "")
        assert Path(file).read_bytes() == TEXT.encode()
        assert out.splitlines()[1].startswith("next: plcourse fit -c ")
        assert file in out

    def test_the_next_command_fits_the_config(self, typed):
        assert "next: plcourse test -c mine.yaml" in typed("cp", "gan/color", "mine.yaml")[1]

    def test_nothing_is_overwritten_without_force(self, typed, refused):
        Path("my.yaml").write_text("precious")
        assert "'my.yaml' exists; --force" in refused("cp", "ddp/two_processes", "my.yaml")
        assert Path("my.yaml").read_text() == "precious"
        assert typed("cp", "ddp/two_processes", "my.yaml", "--force")[0] == 0
        assert Path("my.yaml").read_bytes() == TEXT.encode()

    @pytest.mark.parametrize("dest", ["new/my.yaml", "new/", "my", "my.txt", ""])
    def test_nothing_is_made_on_the_way(self, refused, dest):
        refused("cp", "ddp/two_processes", dest)
        assert not list(Path().iterdir())

    def test_mistakes(self, refused):
        assert "DEST" in refused("cp", "ddp/two_processes")
        assert "did you mean '--force'?" in refused("cp", "ddp/two_processes", ".", "--forse")
        assert "ddp/two_processes" in refused("cp", "ddp/two_proceses", ".")


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

    def test_python_m(self, tmp_path):
        done = subprocess.run(
            [sys.executable, "-m", "plcourse", "--version"], capture_output=True, text=True, check=True
        )
        assert done.stdout == f"plcourse {__version__}\n"

    def test_a_closed_pipe_is_silent(self):
        command = f"{sys.executable} -m plcourse ls | true; exit ${{PIPESTATUS[0]}}"
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_a_full_disk_is_one_line(self):
        done = subprocess.run(
            f"{sys.executable} -m plcourse -h > /dev/full", shell=True, capture_output=True, text=True
        )
        assert done.returncode == 1
        assert done.stderr == "plcourse: error: cannot write the output: No space left on device\n"

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
