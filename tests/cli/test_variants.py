"""An evaluation or prediction with other settings never takes the place of the run's own, and can be repeated."""

import html
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from plcourse import Run
from plcourse.__main__ import main
from plcourse.console.layout import fitted, flowed
from plcourse.runs.variants import evaluations, headline, prediction_sets
from plcourse.training import progress
from support import HELPERS, digits_config, write_config

FAST = {"trainer__max_epochs": 2, "trainer__limit_train_batches": 3}


def fitted_run(tmp_path: Path, runs: Path, **changes: Any) -> Run:
    main(["fit", "-c", str(write_config(tmp_path / "fast.yaml", digits_config(**FAST, **changes))), "--then", "test"])
    return Run.load("own/fast", runs)


def commands_of(run: Run) -> list[str]:
    """The commands that a run's report prints, to be pasted."""
    main(["report", str(run.path)])
    (code,) = re.findall(r'id="repeat".*?<code>(.*?)</code>', (run.path / "report.html").read_text(), re.DOTALL)
    return [line for line in html.unescape(code).splitlines() if line.startswith("plcourse ")]


@pytest.mark.medium
def test_each_score_of_a_report_is_repeated_by_its_command(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = fitted_run(tmp_path, runs)
    own = run.eval("test")
    asked = [
        ["--ckpt_path", "last"],
        ["--data.init_args.val_size", "100", "--trainer.limit_test_batches=2"],
        ["--model.init_args.label_smoothing", "0.3", "--trainer.callbacks+=LearningRateMonitor"],
        ["--trainer.precision=bf16-true"],
    ]
    for flags in asked:
        main(["test", "--run", str(run.path), *flags])
    assert run.eval("test") == own
    found = evaluations(run)
    assert [each.is_variant for each in found] == [False, True, True, True, True]
    by_keys = {tuple(each.settings): each for each in found}
    assert by_keys["trainer.limit_test_batches", "data.init_args.val_size"].settings == {
        "trainer.limit_test_batches": 2,
        "data.init_args.val_size": 100,
    }
    assert by_keys[("ckpt_path",)].file.name == "test-last.json"
    smoothed = by_keys["trainer.callbacks", "model.init_args.label_smoothing"].settings
    assert [each["class_path"].rpartition(".")[2] for each in smoothed["trainer.callbacks"]] == [
        "RunCheckpoint",
        "LearningRateMonitor",
    ]
    before = {each.file: each.metrics for each in found}
    capsys.readouterr()
    main(["ls", "runs"])
    listed = capsys.readouterr().out
    assert f"test/accuracy {own['metrics']['test/accuracy']:.4f}" in listed.splitlines()[1]
    assert "ckpt_path=last" in listed
    assert "trainer.precision=bf16-true" in listed

    again = [line for line in commands_of(run) if line.startswith("plcourse test")]
    assert len(again) == 5
    for each in found:
        each.file.write_text(json.dumps({**each.content, "metrics": {"test/accuracy": -1}}))
    for line in again:
        main(shlex.split(line)[1:])
    assert {each.file: each.metrics for each in evaluations(run)} == before


@pytest.mark.medium
def test_how_the_work_is_done_is_recorded_but_makes_no_other_evaluation(tmp_path: Path, runs: Path) -> None:
    run = fitted_run(tmp_path, runs)
    assert run.test({"data.init_args.num_workers": 1}) == run.eval("test")["metrics"]
    assert run.eval("test")["settings"] == {"data.init_args.num_workers": 1}
    assert run.eval("test-1")["settings"] == {}
    limited = run.test({"trainer.limit_test_batches": 1})
    assert limited != run.eval("test")["metrics"]
    assert [each.metrics for each in evaluations(run)] == [run.eval("test")["metrics"], limited]


@pytest.mark.medium
def test_a_second_prediction_replaces_none(tmp_path: Path, runs: Path) -> None:
    (tmp_path / "one").mkdir()
    for number in range(3):
        Image.new("L", (8, 8), 20 * number).save(tmp_path / "one" / f"{number}.png")
    streaming = {"trainer__predict_loop": {"class_path": "StreamingPredictLoop"}}
    for changes in ({}, streaming):
        run = fitted_run(tmp_path, runs, **changes)
        own = run.predict()
        rows = pq.read_table(own).to_pydict()
        first = run.predict({"data.init_args.predict_paths": [str(tmp_path / "one")]})
        second = run.predict({"data.init_args.predict_paths": [str(tmp_path / "one" / "0.png")]})
        assert run.predictions == own
        assert pq.read_table(own).to_pydict() == rows
        assert len(pq.read_table(run.path / "predictions")) == 359  # readers of the folder get the run's own alone
        assert [len(pq.read_table(files)) for files in (first, second)] == [3, 1]
        manifests = [manifest for _, manifest in prediction_sets(run)]
        assert manifests[0]["given"] == 359
        assert sorted(each["given"] for each in manifests[1:]) == [1, 3]
        inputs = [each["inputs"]["init_args"]["predict_paths"] for each in manifests]
        assert [str(tmp_path / "one")] in inputs
        assert run.predict({"data.init_args.predict_paths": [str(tmp_path / "one")]}) == first
        assert len([line for line in commands_of(run) if line.startswith("plcourse predict")]) == 3


def test_a_headline_is_the_runs_own_score() -> None:
    bits = ["test/ngram_bits_per_character", "test/zlib_bits_per_character", "test/loss", "test/bits_per_character"]
    assert headline(bits, "val/bits_per_character") == "test/bits_per_character"
    assert headline(bits, "val/loss") == "test/loss"
    assert headline(bits) == "test/loss"
    assert headline(["test/majority_accuracy", "test/linear_accuracy", "test/accuracy"]) == "test/accuracy"
    assert headline(["test/linear_rmse", "test/minus_linear", "test/rmse"]) == "test/rmse"
    assert headline([]) is None


@pytest.mark.parametrize("limit", [20, 40, 80, None])
def test_no_number_is_cut_and_no_line_too_long(limit: int | None) -> None:
    rows = [[f"ddp/two_processes/2026112{n}-101500", "finished", f"test/accuracy 0.98{n}4", f"{n} min"] for n in (1, 2)]
    lines = fitted(("run", "status", "score", "took"), rows, limit=limit)
    for name, *cells in rows:
        assert name in lines if limit in (20, 40) else any(name in line for line in lines)
        assert all(any(word in line for line in lines) for cell in cells for word in cell.split())
    parts = [f"val/metric_{n} {n}.1234" for n in range(9)]
    flow = flowed(parts, limit, "epoch 1/9  ")
    for line in flow:
        assert limit is None or len(line) <= max(limit, 35)
    assert [word for line in flow for word in line.split()] == ["epoch", "1/9", *" ".join(parts).split()]
    assert limit is not None or len(flow) == 1


@pytest.mark.medium
def test_advice_works_when_it_is_pasted(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(HELPERS))
    network = {"class_path": "faulty.UnevenNorm"}
    path = write_config(tmp_path / "fast.yaml", digits_config(**FAST, model__init_args__network=network))
    root = tmp_path / "my runs"
    main(["fit", "-c", str(path), "--trust", "faulty", "--runs_root", str(root), "--then", "test"])
    advice = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  plcourse ")]
    assert [line.split()[1] for line in advice] == ["predict", "report"]
    for line in advice:
        main(shlex.split(line)[1:])
    run = Run.load("own/fast", root)
    assert len(pq.read_table(run.predictions)) == 359
    again = [line for line in commands_of(run) if line.startswith("plcourse test")]
    own = run.eval("test")["metrics"]
    (run.path / "eval" / "test.json").unlink()
    main(shlex.split(again[0])[1:])
    assert run.eval("test")["metrics"] == own


@pytest.mark.medium
def test_no_advice_for_a_part_that_does_not_exist(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = digits_config(**FAST, data__init_args__test_size=0)
    main(["fit", "-c", str(write_config(tmp_path / "fast.yaml", config))])
    advice = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("  plcourse ")]
    assert advice == ["report"]


@pytest.mark.medium
@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_a_line_shows_what_its_epoch_logged_and_says_which_epochs_have_none(
    seconds: float, tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", seconds)
    trainer = {"trainer__max_epochs": 4, "trainer__limit_train_batches": 2, "trainer__check_val_every_n_epoch": 2}
    main(["fit", "-c", str(write_config(tmp_path / "fast.yaml", digits_config(**trainer)))])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    rows = Run.load("own/fast").metrics
    values = {row["epoch"]: row["value"] for row in rows if row["metric"] == "val/loss"}
    shown = {line.split()[1]: re.findall(r"  val/loss ([\d.]+)", line) for line in lines}
    last = [f"{values[3]:.4g}"]
    assert shown == (
        {"1/4": [], "2/4": [f"{values[1]:.4g}"], "3/4": [], "4/4": last} if seconds == 0 else {"1/4": [], "4/4": last}
    )
    assert f"best val/loss {min(values.values()):.4g} (epoch " in lines[-1]
    assert lines[-1].endswith("(epochs 2 to 3: see metrics.csv)") == (seconds > 0)
