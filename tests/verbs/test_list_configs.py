"""ls, cat, cp, help and mistakes, as a user types them."""

import json
import re
from pathlib import Path

import pytest

from plcourse.runs.run import Run
from small_suite import HEADER, TEXT

pytestmark = pytest.mark.usefixtures("suite")


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

    def test_sweeps_are_listed_among_the_runs(self, typed):
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

    def test_the_suggested_command_uses_the_first_verb_of_the_config(self, typed):
        assert "next: plcourse test -c mine.yaml" in typed("cp", "gan/color", "mine.yaml")[1]

    def test_nothing_is_overwritten_without_force(self, typed, refused):
        Path("my.yaml").write_text("precious")
        assert "'my.yaml' exists; --force" in refused("cp", "ddp/two_processes", "my.yaml")
        assert Path("my.yaml").read_text() == "precious"
        assert typed("cp", "ddp/two_processes", "my.yaml", "--force")[0] == 0
        assert Path("my.yaml").read_bytes() == TEXT.encode()

    @pytest.mark.parametrize("dest", ["new/my.yaml", "new/", "my", "my.txt", ""])
    def test_a_bad_destination_creates_nothing(self, refused, dest):
        refused("cp", "ddp/two_processes", dest)
        assert not list(Path().iterdir())

    def test_mistakes(self, refused):
        assert "DEST" in refused("cp", "ddp/two_processes")
        assert "did you mean '--force'?" in refused("cp", "ddp/two_processes", ".", "--forse")
        assert "ddp/two_processes" in refused("cp", "ddp/two_proceses", ".")
