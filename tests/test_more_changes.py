"""The changes that the guides of lessons 16 to 19 propose come out as the guides say."""

import csv
import json
import re
from typing import Any

import pytest
import torch

from plcourse import Run
from readers import Reader, scores, series

pytestmark = pytest.mark.slow


def test_evaluation(reader: Reader) -> None:
    """Shortened: 1 predicts 4 million rows, killed after two shards; the runs of 2, 4 and 5 train for one epoch."""
    wait = "sleep() { until [ $(find runs -name 'part-*.parquet' | wc -l) -gt 2 ]; do command sleep 0.1; done; }\n"
    rows = "--data.init_args.rows 4000000 --trainer.predict_loop.init_args.rows_per_shard 200000"
    short: Any = {"fit": "--trainer.max_epochs 1 --data.init_args.rows 100000", "predict": rows}
    reader.type(wait + reader.changes[0].blocks[0], **short)
    change, output = reader.change(1, block=1, **short)
    assert change.says("are there already") in output
    assert change.says("nothing was missing") in output

    change, _ = reader.change(2, fit="--trainer.max_epochs 1")
    change.says("now with `epistemic` uncertainty")
    tested = reader.run("evaluation/classifier")
    assert "epistemic" in reader_report(tested)

    change, _ = reader.change(3)
    change.says("an `epistemic` row from the first test only")
    files = sorted(reader.run("evaluation/mc_dropout").path.glob("eval/*.json"), key=lambda f: f.stat().st_mtime_ns)
    assert ["epistemic" in file.read_text() for file in files] == [True, False]

    reader.type("plcourse test --run evaluation/classifier/latest")
    change, output = reader.change(4)
    assert change.says("test: 1000 of 1000 seen, 0 twice") in output
    change.says("another `test/accuracy`")
    plain, turned = scores(tested, "test/accuracy")[-2:]
    assert plain != turned

    change, _ = reader.change(5)
    [rows, last] = change.figures(r"Expect ([\d,]+) rows below `embeddings`.*`embedding_0` to `embedding_(\d+)`")
    tables = [list(csv.reader(file.read_text().splitlines())) for file in (reader.folder / "embeddings").rglob("*.csv")]
    assert sum(len(table) - 1 for table in tables) == rows
    assert tables[0][0] == ["id", "label_name", *(f"embedding_{k}" for k in range(int(last) + 1))]


def reader_report(run: Run) -> str:
    return max(run.path.glob("eval/*.json"), key=lambda file: file.stat().st_mtime_ns).read_text()


def statuses(run: Run) -> dict[str, str]:
    """What became of each exported format."""
    rows = json.loads((run.path / "export/verification.json").read_text())["rows"]
    return {name: row["status"] for name, row in rows.items() if "status" in row}


def test_export(reader: Reader) -> None:
    """Shortened: one epoch instead of the configs', and one format instead of all of the first command.

    After one epoch, it depends on the processor whether int8 agrees well enough with float32 to be verified.
    """
    one = "--trainer.max_epochs 1"
    reader.type(
        "plcourse fit -c export/classifier --trainer.max_epochs 1 --then export --format onnx --preprocess"
        " --probabilities"
    )
    change, _ = reader.change(1, status=1)
    change.says("exit status 1")
    rows = statuses(reader.run("export/classifier", "unstable"))
    expected = re.findall(r"`(torch\w+)`[^`]*`([a-z, \n]+)`", change.text.partition("three rows")[2])
    assert len(expected) == 3
    assert {name: rows[name] for name, _ in expected} == {name: " ".join(status.split()) for name, status in expected}

    process = reader.shell.start(reader.folder, reader.changes[1].blocks[0])
    process.communicate(timeout=240)
    reader.changes[1].says("a failed check and exit status 1")
    assert process.returncode == (statuses(reader.run("export/classifier"))["onnx_int8"] != "verified")

    change, _ = reader.change(3, fit=one)
    sizes = {
        path.parent.name: path.stat().st_size for path in reader.folder.glob("runs/export/lstm/2*/export/*/model.onnx")
    }
    change.says("nearly as large as that of `onnx`")
    change.says("about a quarter of it")
    assert sizes["onnx_int8"] > 0.9 * sizes["onnx"]
    assert sizes["onnx_int8_dynamic"] == pytest.approx(sizes["onnx"] / 4, rel=0.3)

    change, output = reader.change(4)
    assert change.says("(2, 10)") in output
    change.says("ten class names")
    assert len(re.findall(r"'(\w+)'", output)) == 10

    change, output = reader.change(5, status=2)
    assert re.search("manifest", output)


def test_vision(reader: Reader) -> None:
    """Shortened: 1 and 2 take 20 and 40 steps, when the scores and the rise are still to come, so that 1 only finds its
    reports and 2 the fall; 3 and 4 take 2 and 8 steps, and 5 two epochs of the small digits.
    """
    few = "--trainer.limit_val_batches 1"
    change, _ = reader.change(1, fit=f"--trainer.max_epochs 2 --trainer.limit_train_batches 10 {few}")
    change.says("all three reports")
    found = scores(reader.run("vision/swa"), "test/accuracy")
    assert len(found) == 3

    change, _ = reader.change(2, fit=f"--trainer.max_steps 40 {few}")
    change.says("Expect both to begin at 1, to fall while their losses are large")
    for name in ("train/weight_class", "train/weight_mask"):
        weights = series(reader.run("vision/plain"), name)
        assert weights[0] == pytest.approx(1, abs=0.05)
        assert weights[0] > weights[1] > weights[-1]

    change, _ = reader.change(3, fit=f"--trainer.max_steps 2 {few}")
    change.says("more than eleven million weights")
    path = reader.run("vision/plain").path / "checkpoints/last.ckpt"
    assert sum(weight.numel() for weight in torch.load(path, weights_only=True)["state_dict"].values()) > 11e6

    change, _ = reader.change(4, fit=f"--trainer.max_steps 8 --trainer.log_every_n_steps 1 {few}")
    change.says("the same losses twice")
    plain, again = (series(run, "train/loss") for run in reader.runs("vision/plain")[-2:])
    assert plain == pytest.approx(again, rel=1e-6)
    assert len(plain) == 8

    change, output = reader.change(5, fit="--data.init_args.source digits --trainer.max_epochs 2")
    change.says("`test/accuracy`")
    assert "test/accuracy" in output


def test_nlp(reader: Reader) -> None:
    """Shortened: language models take 60 steps, so that 1 only runs and 3 compares early; 4 to one epoch, 5 to five."""
    base = "--trainer.max_steps 60 --trainer.limit_val_batches 2"
    change, _ = reader.change(1, fit=base)
    worse, better = change.figures(r"Expect ([\d.]+) `test/bits_per_character` instead of the ([\d.]+)")
    assert worse > better

    change, _ = reader.change(2)
    whole, none, longer = scores(reader.run("nlp/char_lstm"), "test/bits_per_character")
    change.says("more without context")
    assert none > whole
    assert longer == pytest.approx(whole, abs=1e-3)

    reader.type(f"plcourse fit -c nlp/char_gpt {base} --then test")
    change, _ = reader.change(3, fit=base)
    change.says("a higher `test/loss`")
    change.says("but fewer `test/bits_per_character`")
    letters, pairs = reader.runs("nlp/char_gpt")
    assert scores(pairs, "test/loss")[0] > scores(letters, "test/loss")[0]
    assert scores(pairs, "test/bits_per_character")[0] < scores(letters, "test/bits_per_character")[0]

    change, output = reader.change(4, fit="--trainer.max_epochs 1 --trainer.log_every_n_steps 1")
    [millions] = change.figures(r"Expect (\d+) million parameters")
    assert re.search(rf"SentimentClassifier, {millions:.0f},\d+,\d+ parameters", output)

    change, _ = reader.change(5, fit="--trainer.max_epochs 5")
    [accuracy] = change.figures(r"of about ([\d.]+), hardly better than chance")
    run = reader.run("nlp/generative_classifier")
    assert scores(run, "test/tfidf_accuracy") == pytest.approx([accuracy], abs=0.02)
    change.says("0 inside the interval of `minus_tfidf`")
    assert scores(run, "test/minus_tfidf_low")[0] < 0
