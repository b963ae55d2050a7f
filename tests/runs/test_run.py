"""A run's folder: never overwritten, never torn, found by its name."""

import json
import os
import pickle
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import plcourse
from plcourse.errors import RunFailed
from plcourse.runs import folders
from plcourse.runs.run import Run, list_runs, runs_below, runs_root
from run_folders import NAME, made, message, script


class TestCreate:
    def test_the_record_comes_first_and_is_complete(self, root):
        run = Run.create(NAME, root, {"verb": "fit", "seed": 7})
        assert sorted(path.name for path in run.path.iterdir()) == ["run.json"]
        record = run.record
        expected = {
            "schema": 1,
            "status": "running",
            "verb": "fit",
            "config": NAME,
            "seed": 7,
            "pid": os.getpid(),
        }
        assert expected.items() <= record.items()
        assert [record[key] for key in ("ended", "seconds", "best", "error")] == [None] * 4
        assert record["created"] == record["started"]
        assert record["created"][-6] in "+-"
        assert record["hardware"]["cores"] >= 1
        assert set(record["versions"]) >= {"python", "torch", "pytorch-lightning", "plcourse"}
        assert run.status == "running"

    def test_the_name_is_its_place_below_the_root(self, root):
        run = Run.create(NAME, root, {})
        lesson, variant, stamp = run.name.split("/")
        assert (lesson, variant) == ("ddp", "two_processes")
        assert folders.STAMP.fullmatch(stamp)
        assert run.path == root / run.name

    def test_latest_is_a_relative_link_that_follows(self, root):
        first = Run.create(NAME, root, {})
        second = Run.create(NAME, root, {})
        link = root / NAME / "latest"
        assert str(link.readlink()) == second.path.name != first.path.name
        assert link.resolve() == second.path.resolve()
        assert not list((root / NAME).glob(".*"))

    def test_without_links_latest_is_a_file(self, root, monkeypatch):
        def refuse(*_args, **_kwargs):
            raise OSError("no links here")

        monkeypatch.setattr(Path, "symlink_to", refuse)
        Run.create(NAME, root, {})
        second = Run.create(NAME, root, {})
        assert (root / NAME / "latest").read_text().strip() == second.path.name
        assert Run.load(f"{NAME}/latest", root).path.resolve() == second.path.resolve()
        assert Run.load(NAME, root).name == second.name
        assert list_runs(root)[0].name == second.name

    def test_a_folder_called_latest_is_left_alone(self, root):
        (root / NAME / "latest").mkdir(parents=True)
        run = Run.create(NAME, root, {})
        assert (root / NAME / "latest").is_dir()
        assert Run.load(f"{NAME}/latest", root).name == run.name

    @pytest.mark.parametrize(
        ("name", "folder"),
        [
            ("some/dir/my.yaml", "own/my"),
            ("dir/my.yaml", "own/my"),
            ("my", "own/my"),
            ("../../../evil", "own/evil"),
            ("ddp/..", "own/config"),
            ("../x", "own/x"),
            ("/etc/x", "own/x"),
            ("a/b\n", "own/b"),
            ("a\x1b/b", "own/b"),
        ],
    )
    def test_no_name_leads_out_of_the_root(self, root, name, folder):
        run = Run.create(name, root, {})
        assert run.path.parent == root / folder
        assert run.record["config"] == name
        assert sorted(path.name for path in root.parent.iterdir()) == ["runs"]

    def test_a_root_that_is_a_file(self, root):
        root.write_text("")
        assert "--runs_root" in message(Run.create, NAME, root, {})

    @pytest.mark.medium
    def test_ten_processes_in_the_same_second(self, root):
        code = (
            "sys.stdout.write('ready\\n'); sys.stdout.flush(); sys.stdin.readline()\n"
            "run = Run.create('ddp/two_processes', sys.argv[1], {'seed': int(sys.argv[2])})\n"
            "print(run.name)"
        )
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        processes: list[Any] = [script(code, root, seed, **pipes) for seed in range(10)]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        names = [process.communicate()[0].strip() for process in processes]
        assert [process.returncode for process in processes] == [0] * 10
        assert len(set(names)) == 10
        assert [Run.load(name, root).record["seed"] for name in names] == list(range(10))
        newest = list_runs(root)[0]
        assert Run.load(NAME, root).name == newest.name
        assert not list(root.rglob("*.tmp"))


class TestUpdate:
    def test_fields_change_and_the_rest_stays(self, root):
        run = Run.create(NAME, root, {"seed": 1})
        run.update(best={"metric": "val/accuracy", "value": 0.9, "step": 3, "epoch": 0})
        assert run.record["seed"] == 1
        assert run.record["best"]["value"] == 0.9
        assert sorted(path.name for path in run.path.iterdir()) == ["run.json"]

    @pytest.mark.medium
    def test_a_reader_never_sees_a_torn_file(self, root):
        run = Run.create(NAME, root, {"a": 0, "b": 0, "padding": "x" * 20_000})
        code = "run = Run(sys.argv[1])\nfor n in range(1, 301): run.update(a=n, b=n)"
        writer = script(code, run.path)
        seen = set()
        while writer.poll() is None:
            record: Any = run.record
            assert record["a"] == record["b"]
            seen.add(record["a"])
        assert writer.returncode == 0
        assert dict(run.record)["a"] == 300
        assert len(seen) > 10

    @pytest.mark.medium
    def test_no_update_of_several_processes_is_lost(self, root):
        run = Run.create(NAME, root, {})
        code = "run = Run(sys.argv[1])\nfor n in range(20): run.update(**{f'{sys.argv[2]}_{n}': n})"
        writers = [script(code, run.path, f"w{number}") for number in range(4)]
        assert [writer.wait() for writer in writers] == [0] * 4
        assert sum(key.startswith("w") for key in run.record) == 80

    def test_threads_of_one_process(self, root):
        run = Run.create(NAME, root, {})
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: run.update(**{f"t{n}": n}), range(32)))
        assert sum(key.startswith("t") for key in run.record) == 32

    def test_a_failed_write_leaves_the_old_record(self, root, monkeypatch):
        run = Run.create(NAME, root, {"seed": 1})

        def full(_handle):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(RunFailed, match="No space left") as caught:
            run.update(seed=2)
        assert caught.value.status == 1
        assert run.record["seed"] == 1
        assert sorted(path.name for path in run.path.iterdir()) == ["run.json"]
        with pytest.raises(RunFailed):
            Run.create("ddp/other", root, {})
        assert list((root / "ddp/other").iterdir()) == []

    def test_the_end(self, root):
        run = Run.create(NAME, root, {})
        run.finish("failed", error="NaN in step 3")
        record = run.record
        assert (record["status"], record["error"], run.status) == ("failed", "NaN in step 3", "failed")
        assert record["seconds"] >= 0
        assert record["ended"] >= record["started"]


class TestLoad:
    def test_by_every_name(self, root):
        made(root, "20260101-000000")
        run = Run.create(NAME, root, {})
        names = (
            run.path,
            str(run.path),
            run.name,
            NAME,
            f"{NAME}/latest",
            f"runs/{NAME}/latest",
            f"runs/{NAME}",
        )
        for name in names:
            assert Run.load(name, root).name == run.name, name
        assert Run.load(f"{NAME}/20260101-000000", root).name == f"{NAME}/20260101-000000"
        assert Run.load(NAME).name == run.name

    def test_another_root(self, root, monkeypatch):
        run = Run.create(NAME, root / "deep", {})
        monkeypatch.setenv("PLCOURSE_RUNS", str(root / "deep"))
        assert Run.load(NAME).name == run.name
        assert runs_root() == root / "deep"
        assert runs_root("flag") == Path("flag")
        with runs_below(root):
            assert runs_root() == root
        monkeypatch.setenv("PLCOURSE_RUNS", "")
        assert runs_root() == Path("runs")

    def test_a_run_that_lies_elsewhere_is_named_by_its_path(self, root, tmp_path):
        run = made(tmp_path / "other", "20260101-000000")
        assert Run.load(run.path, root).name == str(run.path)

    def test_a_dangling_latest_means_the_newest(self, root):
        for stamp in ("20260101-000000", "20260101-000000-2", "20260101-000000-10"):
            made(root, stamp)
        (root / NAME / "latest").symlink_to("20260505-000000")
        assert Run.load(NAME, root).path.name == "20260101-000000-10"

    def test_errors_offer_what_there_is(self, root):
        assert "contains no runs" in message(Run.load, NAME, root)
        for day in range(1, 6):
            made(root, f"2026010{day}-000000")
        assert "did you mean 'ddp/two_processes'?" in message(Run.load, "ddp/two_proceses", root)
        text = message(Run.load, "nothing", root)
        assert "the most recent are ddp/two_processes/20260105-000000" in text
        assert "20260102" not in text
        for odd in ("", "a\nb", "x" * 300, ".", ".."):
            message(Run.load, odd, root)


class TestContents:
    def test_metrics(self, root):
        run = made(root, "20260101-000000")
        assert run.metrics == []
        table = run.path / "metrics.csv"
        table.write_text("step,epoch,metric,value\n0,0,train/loss,2.5\n9,0,val/loss,nan\n9,0,val/accuracy,0.98")
        rows = run.metrics
        assert rows[0] == {"step": 0, "epoch": 0, "metric": "train/loss", "value": 2.5}
        assert len(rows) == 2  # the last row has no line end: a kill may have cut its number
        table.write_text("step,epoch,metric,value\n0,0,train/loss,high\n")
        assert "metrics.csv:2" in message(lambda: run.metrics)

    def test_checkpoints(self, root):
        run = made(root, "20260101-000000")
        assert "it has none (status: finished)" in message(run.checkpoint)
        folder = run.path / "checkpoints"
        folder.mkdir()
        (folder / "last.ckpt").touch()
        (folder / "best.ckpt.sha256").touch()
        assert run.checkpoint("last") == folder / "last.ckpt"
        assert run.checkpoint("last.ckpt") == folder / "last.ckpt"
        assert run.checkpoint(str(folder / "last.ckpt")) == folder / "last.ckpt"
        assert "no checkpoint 'best'; it has last" in message(run.checkpoint)
        Path("best").touch()
        message(run.checkpoint, "best")

    def test_evaluations_and_predictions(self, root):
        run = made(root, "20260101-000000")
        assert f"plcourse test --run {run.path}" in message(run.eval, "test")
        assert run.predictions == []
        (run.path / "eval").mkdir()
        (run.path / "eval/test.json").write_text('{"metrics": {"test/accuracy": 0.5}}')
        assert run.eval("test")["metrics"] == {"test/accuracy": 0.5}
        assert "it has test" in message(run.eval, "val")
        (run.path / "predictions").mkdir()
        for name in ("b.parquet", "a.parquet", "manifest.json"):
            (run.path / "predictions" / name).touch()
        assert [path.name for path in run.predictions] == ["a.parquet", "b.parquet"]
        assert run.config_path == run.path / "config.yaml"

    def test_the_run_of_the_api_has_the_verbs(self, root, monkeypatch):
        calls = []
        monkeypatch.setattr(plcourse.Run, "_evaluate", lambda run, *args: calls.append(args) or run.variant)
        record = made(root, "20260101-000000")
        record.variant = "last"
        run = plcourse.Run.of(record)
        assert isinstance(run, Run)
        assert (run.path, run.root, run.variant) == (record.path, record.root, "last")
        copy = pickle.loads(pickle.dumps(run))
        assert type(copy) is plcourse.Run
        assert (copy.path, copy.name, copy.variant) == (run.path, run.name, "last")
        assert type(plcourse.Run.load(NAME, root)) is plcourse.Run
        (run.path / "eval").mkdir()
        for number, name in enumerate(("test", "test-last", "val", "val-last")):
            (run.path / "eval" / f"{name}.json").write_text(json.dumps({"metrics": {"x": number}}))
        assert (run.test(), run.validate({"a": 1}), run.predict()) == ({"x": 1}, {"x": 3}, [])
        run.variant = ""
        assert (run.test(), run.validate()) == ({"x": 0}, {"x": 2})
        verbs = [("test", None), ("validate", {"a": 1}), ("predict", None), ("test", None), ("validate", None)]
        assert calls == verbs


class TestList:
    def test_newest_first_across_configs(self, root):
        made(root, "20260102-000000", "own/my")
        made(root, "20260103-000000-2")
        made(root, "20260103-000000-10")
        made(root, "20260101-000000")
        (root / NAME / "latest").symlink_to("20260101-000000")
        assert [run.name for run in list_runs(root)] == [
            f"{NAME}/20260103-000000-10",
            f"{NAME}/20260103-000000-2",
            "own/my/20260102-000000",
            f"{NAME}/20260101-000000",
        ]

    def test_foreign_things_are_passed_over(self, root):
        assert list_runs(root) == []
        run = made(root, "20260102-000000")
        (root / "notes/todo/later").mkdir(parents=True)
        (root / "file").touch()
        (root / NAME / "20260101-000000").mkdir()
        assert [(found.name, found.status) for found in list_runs(root)] == [
            (run.name, "finished"),
            (f"{NAME}/20260101-000000", "unreadable"),
        ]
