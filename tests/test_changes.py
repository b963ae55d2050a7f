"""The changes that the guides propose come out as the guides say.

Each test is a reader: in an empty folder it types the five changes of one guide in turn, as they stand there, and holds
what comes out against the text. `Change.says` and `Change.figures` take each expectation from the guide, so that
neither can change alone. What a test shortens, by flags behind each command, its docstring says.
"""

import csv
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import guides
from forking import Shell
from plcourse import Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def shell() -> Iterator[Shell]:
    with Shell("plcourse.kfold.loop", "plcourse.ddp.data") as shell:
        yield shell


class Reader:
    """Types the changes of one guide in one folder."""

    def __init__(self, lesson: str, shell: Shell, folder: Path) -> None:
        self.changes, self.shell, self.folder = guides.changes(lesson), shell, folder

    def change(self, number: int, status: int = 0, block: int | None = None, **shorter: Any) -> tuple[Any, str]:
        """Types one change, or one of its blocks; returns the change and what was printed."""
        change = self.changes[number - 1]
        for name, text in change.files.items():
            (self.folder / name).write_text(text)
        blocks = change.blocks if block is None else [change.blocks[block]]
        return change, self.type("".join(blocks), status, **shorter)

    def type(self, commands: str, status: int = 0, **shorter: Any) -> str:
        return self.shell.run(self.folder, commands, status, **shorter)

    def runs(self, config: str, root: str = "runs") -> list[Run]:
        """The runs of a config, the oldest first."""
        return [Run(path.parent) for path in sorted((self.folder / root / config).glob("2*/run.json"))]

    def run(self, config: str, root: str = "runs") -> Run:
        return self.runs(config, root)[-1]


@pytest.fixture
def reader(request: pytest.FixtureRequest, shell: Shell, tmp_path: Path) -> Reader:
    return Reader(request.node.name.removeprefix("test_"), shell, tmp_path)


def series(run: Run, metric: str) -> list[float]:
    return [float(row["value"]) for row in run.metrics if row["metric"] == metric]


def scores(run: Run, metric: str) -> list[float]:
    """What each evaluation of a run scored, the oldest first."""
    files = sorted(run.path.glob("eval/*.json"), key=lambda file: file.stat().st_mtime_ns)
    return [json.loads(file.read_text())["metrics"][metric] for file in files]


def summary(run: Run, metric: str) -> dict[str, float]:
    return json.loads((run.path / "summary.json").read_text())["metrics"][metric]


def columns(output: str) -> list[tuple[float, float]]:
    """The values of two tables that `paste` has put side by side."""
    rows = [line.split("\t") for line in output.splitlines() if re.match(r"\d+,\d+,train/\S+\t\d", line)]
    return [(float(a.split(",")[3]), float(b.split(",")[3])) for a, b in rows]


def agree(output: str, digits: int) -> None:
    pairs = columns(output)
    assert len(pairs) >= 5
    assert all(a == pytest.approx(b, rel=10.0**-digits) for a, b in pairs)


def test_ddp(reader: Reader) -> None:
    """Shortened: 3 and 5 train on the small digits, 4 for one epoch instead of five.

    5 shows that the run continues; `tests/faults` holds that it ends as if it had never been killed.
    """
    change, output = reader.change(1)
    assert output.count(change.says("test: 65 of 65 seen, 0 twice")) == 2
    two, one = scores(reader.run("ddp/two_processes"), "test/loss")
    assert one == pytest.approx(two, rel=1e-5)
    single = change.blocks[0].replace("65", "1").partition("\nplcourse test")[0]
    assert change.says("1 of 1 seen, 0 twice") in reader.type(single)

    change, output = reader.change(2)
    change.says("agree to ten digits")
    agree(output, 10)

    change, output = reader.change(3, fit="--data.init_args.source digits")
    change.says("agree to ten digits")
    agree(output, 10)

    change, _ = reader.change(4, fit="--trainer.max_epochs 1 --trainer.log_every_n_steps 1")
    run = reader.run("ddp/two_processes")
    [steps] = change.figures(r"expect (\d+) steps in `run.json`")
    assert run.record["steps"] == steps / 5
    [rate] = change.figures(r"`train/lr` to reach ([\d.]+) ")
    assert max(series(run, "train/lr")) == pytest.approx(rate, rel=0.02)

    small = "--data.init_args.source digits --trainer.max_epochs 40"
    first = reader.shell.start(reader.folder, reader.changes[4].blocks[0], fit=small)
    deadline = time.monotonic() + 120
    while reader.run("ddp/two_processes").path == run.path or not list(
        reader.run("ddp/two_processes").path.glob("checkpoints/last.ckpt")
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    change, _ = reader.change(5, block=1)
    output, _ = first.communicate(timeout=120)
    assert first.returncode == int(change.says("exit status 1")[-1])
    assert re.search(change.says("rank 1") + ".*SIGKILL.*step", output, re.IGNORECASE)
    assert change.says("failed") in reader.type("plcourse ls runs")
    reader.change(5, block=2)
    assert reader.run("ddp/two_processes").status == "finished"


def test_gan(reader: Reader) -> None:
    """Shortened: 1 takes 300 iterations, when the last two have not found every mode yet; 2 a tenth of its 500 steps;
    3 and 4 five of their 20; 5 predicts with the run of 4, since 30 epochs would train for minutes.
    """
    change, _ = reader.change(1, fit="--trainer.max_steps 300")
    most, fewest = change.figures(r"`test/modes` to be (\d+) for the last two, and at most (\d+) for the first")
    modes = {name: scores(reader.run(f"gan/{name}_gaussians"), "test/modes")[-1] for name in ("nonsaturating", "r3gan")}
    assert fewest < most
    assert modes["r3gan"] > modes["nonsaturating"]

    change, _ = reader.change(2, fit="--trainer.max_steps 50")
    run = reader.run("gan/wgan_gp_gaussians")
    change.says('`"steps": 500`')
    change.says("twice as many")
    checkpoint = torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)
    steps = [float(next(iter(each["state"].values()))["step"]) for each in checkpoint["optimizer_states"]]
    assert run.record["steps"] == 50
    assert sorted(steps) == [50, 100]

    for number in (3, 4):
        change, output = reader.change(number, fit="--trainer.max_steps 5")
        change.says("two columns that agree to eight digits")
        agree(output, 8)

    two = "--runs_root two --allow_untrained"
    change, _ = reader.change(5, predict=two)
    change.says("two pictures, one for each seed")
    assert {int(path.stem) for path in reader.folder.rglob("samples/*.png")} == {17, 4242}


def test_kfold(reader: Reader) -> None:
    """Shortened: folds run two at a time, which changes no number; 5 trains for three epochs instead of 15."""
    reader.type("plcourse fit -c kfold/classifier", fit="--trainer.fit_loop.init_args.n_jobs 2")
    ten = reader.run("kfold/classifier")
    change, output = reader.change(1)
    assert len(re.findall(r"^fold \d", output, re.MULTILINE)) == 5
    [wider] = change.figures(r"about ([\d.]+) times as wide")
    width = {run: summary(run, "val/accuracy") for run in (ten, reader.run("kfold/classifier"))}
    of_ten, of_five = (each["high"] - each["low"] for each in width.values())
    assert of_five / of_ten == pytest.approx(wider, rel=0.2)

    change, output = reader.change(2)
    assert change.says("2 of 10 folds are finished already") in output
    change.says("exactly the summary of ten folds")
    assert summary(reader.run("kfold/classifier"), "val/accuracy") == summary(ten, "val/accuracy")

    change, _ = reader.change(3, fit="--trainer.fit_loop.init_args.n_jobs 2")
    last, chosen = reader.runs("kfold/regression")
    figures = change.figures(
        r"from ([\d.]+) to ([\d.]+), but the ensemble's `test/rmse` only from ([\d.]+) to ([\d.]+):"
    )
    means = [summary(run, "val/rmse")["mean"] for run in (last, chosen)]
    ensembles = [scores(run, "test/rmse")[-1] for run in (last, chosen)]
    assert [*means, *ensembles] == pytest.approx(figures, rel=0.02)
    assert means[0] - means[1] > 2 * (ensembles[0] - ensembles[1])

    change, _ = reader.change(4, fit="--trainer.fit_loop.init_args.n_jobs 2")
    figures = change.figures(r"([\d.]+) and ([\d.]+) miles per gallon, .* of ([\d.]+) and ([\d.]+):")
    years, mixed = (summary(run, "val/rmse") for run in reader.runs("kfold/grouped"))
    assert [years["mean"], mixed["mean"], years["sd"], mixed["sd"]] == pytest.approx(figures, rel=0.1)

    change, output = reader.change(5, sweep="--trainer.max_epochs 3")
    change.says("better than the linear model")
    for arm in ("mlp", "resnet"):
        assert re.search(rf"^{arm} +10 .*\+0\.\d+", output, re.MULTILINE)


def test_curriculum(reader: Reader) -> None:
    """Shortened: 1 and 5 to two epochs, 4 keeps its 20; 3 to two seeds of three epochs."""
    change, _ = reader.change(1, fit="--trainer.max_epochs 2")
    run = reader.run("curriculum/easy_first")
    [start, end] = change.figures(r"`train/share` to be ([\d.]+) for the first half of the steps and ([\d.]+)")
    shares = series(run, "train/share")
    half = len(shares) // 2
    assert shares == [start] * half + [end] * (len(shares) - half)
    assert {"pacing.png", "terciles.png"} <= {path.name for path in run.path.glob("plots/*")}

    change, output = reader.change(2)
    [shown] = re.findall(r"the shares ([\d., ]+) of the seven", change.text)
    printed = re.findall(r"^\d ([\d.]+)$", output, re.MULTILINE)
    assert [*map(float, printed)] == pytest.approx([*map(float, shown.split(", "))])

    change, output = reader.change(3, sweep="--seeds 0..1 --trainer.max_epochs 3")
    assert re.search(r"self_paced +2 ", output)
    first, low, high = change.figures(r"is ([\d.]+) in the first epoch, then ([\d.]+) to ([\d.]+) while")
    cells = [path for path in (reader.folder / "runs/sweeps").rglob("seed0/run.json") if "self_paced/" in f"{path}"]
    selected = series(Run(cells[0].parent), "train/selected")
    third = len(selected) // 3
    assert {*selected[:third]} == {first}
    assert low - 0.1 < sum(selected[third:]) / len(selected[third:]) < high + 0.1

    change, _ = reader.change(4)
    [most] = change.figures(r"`train/loss` to be below ([\d.]+)\.")
    assert series(reader.run("curriculum/iid"), "train/loss")[-1] < most

    change, _ = reader.change(5, fit="--trainer.max_epochs 1")
    [rows] = change.figures(r"([\d,]+) rows in `ink.csv`")
    assert len((reader.folder / "ink.csv").read_text().splitlines()) - 1 == rows
    assert (reader.run("curriculum/easy_first").path / "plots/examples.png").stat().st_size > 0


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
    """Shortened: one epoch instead of the configs', and two formats instead of all of the first command."""
    one = "--trainer.max_epochs 1"
    reader.type(
        "plcourse fit -c export/classifier --trainer.max_epochs 1 --then export --format onnx,onnx_int8 --preprocess"
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
