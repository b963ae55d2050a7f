"""The table of a sweep while it runs and afterwards."""

import io
import json
import re
from pathlib import Path

import pytest

from plcourse.verbs.sweep.screen import Screen, cell_line, summary
from sweep_plans import ARMS, made, plan_of


def test_the_lines_and_the_table(runs: Path) -> None:
    sweep = made(plan_of(*ARMS, "--seeds", "0..1", "--grid", "a.lr=0.1", "--metric", "test/accuracy"), runs)
    for value, cell in zip((0.25, 0.5, 0.75), sweep.cells, strict=False):
        folder = sweep.run(cell).path / "eval"
        folder.mkdir()
        (folder / "test.json").write_text(json.dumps({"metrics": {"test/accuracy": value}}))
        sweep.update(cell, status="finished", seconds=12.34)
    sweep.update(sweep.cells[3], status="failed", error="rank 1 was killed", seconds=1.0)
    assert cell_line(sweep, sweep.cells[0]) == "ddp/one_process seed 0 lr=0.1  test/accuracy 0.25  12.3 s"
    assert cell_line(sweep, sweep.cells[3]) == "ddp/two_processes seed 1 lr=0.1  failed: rank 1 was killed  1.0 s"
    assert summary(sweep) == [
        "ddp/one_process  lr=0.1    2/2 finished            test/accuracy  mean 0.5  (0.25 to 0.75)",
        "ddp/two_processes  lr=0.1  1/2 finished, 1 failed  test/accuracy  mean 0.5",
    ]
    error = sweep.failures()
    assert error is not None
    assert error.status == 1
    assert str(error).startswith("1 of 4 cells failed; the first: ddp/two_processes seed 1 lr=0.1: rank 1 was killed")


def test_a_metric_that_no_run_has_is_reported_once(runs: Path) -> None:
    sweep = made(plan_of(*ARMS, "--metric", "val/acuracy"), runs)
    stream = io.StringIO()
    screen = Screen(sweep, stream)
    for cell in sweep.cells:
        (sweep.run(cell).path / "metrics.csv").write_text("step,epoch,metric,value\n9,0,val/accuracy,0.5\n")
        sweep.update(cell, status="finished")
        screen.ended(cell)
    assert stream.getvalue().count("this run has no val/acuracy; did you mean 'val/accuracy'?") == 1


def test_validation_scores_are_those_of_the_best_checkpoint(runs: Path) -> None:
    sweep = made(plan_of(*ARMS, "--metric", "val/accuracy"), runs)
    cell = sweep.cells[0]
    sweep.update(cell, status="finished")
    rows = [f"{step},0,val/accuracy,{value}" for step, value in ((9, 0.5), (19, 0.75), (29, 0.25))]
    (sweep.run(cell).path / "metrics.csv").write_text("\n".join(["step,epoch,metric,value", *rows, ""]))
    assert sweep.score(cell) == ("val/accuracy", 0.25)
    sweep.run(cell).update(best={"metric": "val/loss", "value": 1.0, "step": 20, "epoch": 1})
    assert sweep.score(cell) == ("val/accuracy", 0.75)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_table_is_redrawn_on_a_terminal_only(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    sweep = made(plan_of(*ARMS), runs)
    sweep.update(sweep.cells[0], status="running")
    (sweep.run(sweep.cells[0]).path / "log.txt").write_text("epoch 1/3  val/loss 2\nepoch 2/3  val/loss 1\n")
    terminal, plain = Terminal(), io.StringIO()
    for stream in (terminal, plain):
        screen = Screen(sweep, stream)
        screen.started(sweep.cells[0])
        screen.redraw()
        screen.redraw()
        screen.say("a line")
        screen.redraw()
        screen.close()
    assert plain.getvalue() == "a line\n"
    assert "\x1b[?25l" not in terminal.getvalue().rpartition("\x1b[?25h")[2], "the cursor can be seen"
    shown = [part for part in re.split(r"(?:\x1b\[[?0-9]*[A-Za-z]|\r)+", terminal.getvalue()) if part.strip()]
    frame = [line for line in shown[0].split("\n") if line.strip()]
    assert frame[0].startswith("running  ddp/one_process seed 0  0 s  epoch 2/3")
    assert frame[1].startswith("ddp/one_process    0/1 finished, 1 running")
    assert shown[1:] == [f"a line\n{shown[0]}"], "redrawn below the line, and gone at the end"
    assert max(map(len, shown[1].split("\n"))) <= 60
