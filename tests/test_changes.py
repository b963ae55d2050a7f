"""The changes that the guides propose come out as the guides say.

Each test is a reader: in an empty folder it types the five changes of one guide in turn, as they stand there, and holds
what comes out against the text. `Change.says` and `Change.figures` take each expectation from the guide, so that
neither can change alone. What a test shortens, by flags behind each command, its docstring says.
"""

import re
import time

import pytest
import torch

from plcourse import Run
from readers import Reader, agree, scores, series, summary

pytestmark = pytest.mark.slow


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
    assert change.says("2 of 10 folds are already finished") in output
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
