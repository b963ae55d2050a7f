"""`plcourse sweep` with real cells: the same numbers however they are run, and nothing lost when it is stopped."""

import json
import random
import re
import signal
import time
from pathlib import Path

import pytest

from plcourse.__main__ import main
from plcourse.processes.forking import can_fork
from plcourse.runs.run import Run, list_runs
from plcourse.verbs.sweep.sweep import Sweep
from started import Started
from support import HELPERS, TWO_PROCESSES, Command, digits_config, failing, write_config

GRID = ["--seeds", "0..1", "--grid", "optimizer.lr=0.1,0.05"]
LONGER = {"trainer__max_epochs": 2}


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(str(HELPERS))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A sweep that nobody disturbed, one cell at a time."""
    folder = tmp_path_factory.mktemp("reference")
    config = write_config(folder / "arm.yaml", digits_config(**LONGER))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        main(["sweep", "--arms", str(config), *GRID, "--runs_root", str(folder / "runs")])
    return Sweep.load("arm", folder / "runs")


def assert_same_numbers(sweep: Sweep, other: Sweep) -> None:
    assert len(sweep.cells) == len(other.cells) >= 2
    for a, b in zip(sweep.cells, other.cells, strict=True):
        assert (a.status, a.seed, a.grid) == ("finished", b.seed, b.grid)
        assert table(sweep.run(a)) == table(other.run(b))
        assert sweep.run(a).eval("test")["metrics"] == other.run(b).eval("test")["metrics"]
    tables = [table(sweep.run(cell)) for cell in sweep.cells]
    assert len(set(tables)) == len(tables), "every cell has a seed or a rate of its own"


def table(run: Run) -> str:
    return (run.path / "metrics.csv").read_text()


def latest(runs: Path) -> Sweep:
    return Sweep.load("latest", runs)


def statuses(runs: Path) -> list[str]:
    files = sorted((runs / "sweeps").glob("*/2*/sweep.json"))
    return [cell["status"] for cell in json.loads(files[-1].read_text())["cells"]] if files else []


def checkpoint_of(runs: Path, number: int) -> bool:
    """Whether a cell runs that has written a checkpoint."""
    if statuses(runs)[number : number + 1] != ["running"]:
        return False
    sweep = latest(runs)
    return (sweep.run(sweep.cells[number]).path / "checkpoints" / "last.ckpt").is_file()


def test_parallel_cells_equal_single_fits(
    reference: Sweep, runs: Path, tmp_path: Path, forked: Command, capfd: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path / "arm.yaml", digits_config(**LONGER))
    main(["sweep", "--arms", str(config), *GRID, "--n_jobs", "2", "--metric", "test/accuracy"])
    printed = capfd.readouterr().out
    sweep = latest(runs)
    assert_same_numbers(sweep, reference)
    forked("fit", "-c", config, "--seed_everything", 1, "--optimizer.lr", 0.05, "--then", "test")
    cell, fit = sweep.run(sweep.cells[3]), Run.load("own/arm", runs)
    assert table(cell) == table(fit)
    assert cell.config_path.read_text() == fit.config_path.read_text()
    assert cell.eval("test")["metrics"] == fit.eval("test")["metrics"]
    assert cell.status == "finished"
    assert cell.record["command"] == f"plcourse fit --run {cell.path} --then test"
    assert "epoch 2/2" in (cell.path / "log.txt").read_text()
    assert "epoch" not in printed, "what a cell prints goes into its log"
    assert "4/4 own/arm seed 1" in printed
    assert f"plcourse compare {sweep.path} --metric test/accuracy" in printed
    assert sweep.status == "finished"
    assert [run.name for run in list_runs(runs)] == [fit.name], "`ls runs` lists no cells"
    forked("sweep", "--resume", status=0)
    assert Sweep.load("latest", runs).cells == sweep.cells, "nothing was left to do"


@pytest.mark.medium
def test_a_killed_and_resumed_sweep_equals_an_uninterrupted_one(reference: Sweep, runs: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "arm.yaml", digits_config(**LONGER))
    started = Started("sweep", "--arms", config, *GRID)
    started.wait_for(lambda: statuses(runs)[:1] == ["finished"] and checkpoint_of(runs, 1))
    assert started.end(signal.SIGKILL)[0] == -signal.SIGKILL
    sweep = latest(runs)
    assert sweep.status == "killed"
    assert [cell.status for cell in sweep.cells] == ["finished", "running", "pending", "pending"]
    first = (sweep.run(sweep.cells[0]).path / "run.json").read_text()
    config.write_text("model: edited since\n")  # every cell's config is in its folder
    main(["sweep", "--resume", "--n_jobs", "2"])
    sweep = latest(runs)
    assert_same_numbers(sweep, reference)
    assert (sweep.run(sweep.cells[0]).path / "run.json").read_text() == first, "a finished cell is not run again"
    assert sweep.status == "finished"


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_cells_with_a_checkpoint(
    reference: Sweep, runs: Path, tmp_path: Path, signum: int, status: int
) -> None:
    config = write_config(tmp_path / "arm.yaml", digits_config(**LONGER))
    command = ["--arms", str(config), *GRID]
    started = Started("sweep", *command, "--n_jobs", "2")
    started.wait_for(lambda: statuses(runs) and (checkpoint_of(runs, 0) or checkpoint_of(runs, 1)))
    code, out, err = started.end(signum)
    assert code == status
    assert f"interrupted by {signal.Signals(signum).name}" in err
    sweep = latest(runs)
    assert f"plcourse sweep --resume {sweep.path}" in out
    assert sweep.status == "interrupted"
    assert "running" not in statuses(runs)
    stopped = [cell for cell in sweep.cells if cell.status == "interrupted"]
    assert stopped
    assert {sweep.run(cell).status for cell in stopped} <= {"interrupted", "pending"}
    main(["sweep", *command, "--resume"])
    assert_same_numbers(latest(runs), reference)


@pytest.mark.slow
def test_a_second_signal_ends_at_once(runs: Path, tmp_path: Path) -> None:
    config = failing(digits_config(trainer__max_epochs=1000), step=30, how="stall")
    started = Started("sweep", "--arms", write_config(tmp_path / "arm.yaml", config), "--trust", "faulty")
    started.wait_for(lambda: statuses(runs) and checkpoint_of(runs, 0))
    started.process.send_signal(signal.SIGINT)
    time.sleep(0.6)
    assert started.end(signal.SIGINT)[0] == 130
    assert statuses(runs) == ["interrupted"]


@pytest.mark.medium
def test_failed_cells_are_recorded_and_the_others_still_run(
    reference: Sweep, runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arms = {}
    for name, how in (("raises", "raise"), ("killed", "kill")):
        config = failing(digits_config(**LONGER), step=31, how=how, once=str(tmp_path / f"once_{name}"))
        arms[name] = {"config": str(write_config(tmp_path / f"{name}.yaml", config))}
    arms["good"] = {"config": str(write_config(tmp_path / "good.yaml", digits_config(**LONGER)))}
    arms["late"] = {"config": arms["good"]["config"], "overrides": {"data.init_args.batch_size": -1}}
    file = write_config(tmp_path / "faults.yaml", {"arms": arms, "overrides": {"optimizer.lr": 0.1}})
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", "-c", str(file), "--trust", "faulty"])
    assert stopped.value.code == 1
    error = capfd.readouterr().err
    assert "3 of 4 cells failed; the first: raises seed 0: " in error
    assert re.search(r"faulty\.py:\d+: ZeroDivisionError: planted", error)
    assert error.count("\n") == 1
    sweep = latest(runs)
    assert sweep.status == "failed"
    assert [cell.status for cell in sweep.cells] == ["failed", "failed", "finished", "failed"]
    assert "killed by SIGKILL" in str(sweep.cells[1].error)
    assert "batch_size=-1" in str(sweep.cells[3].error)
    assert sweep.run(sweep.cells[3]).status == "failed"
    assert "Traceback" in (sweep.run(sweep.cells[0]).path / "log.txt").read_text()
    with pytest.raises(SystemExit):
        main(["sweep", "--resume", "faults"])
    sweep = latest(runs)
    assert [cell.status for cell in sweep.cells] == ["finished", "finished", "finished", "failed"]
    for cell in sweep.cells[:3]:
        assert table(sweep.run(cell)) == table(reference.run(reference.cells[0]))


@pytest.mark.medium
def test_settings_of_one_cell_do_not_affect_the_next(runs: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "arm.yaml", digits_config(trainer__max_epochs=1))
    flags = ["--arms", str(config), "--seeds", "5", "--then", ""]
    main(["sweep", *flags, "--name", "mixed", "--grid", "trainer.deterministic=true,null"])
    main(["sweep", *flags, "--name", "plain"])
    mixed, plain = Sweep.load("mixed", runs), Sweep.load("plain", runs)
    assert table(mixed.run(mixed.cells[1])) == table(plain.run(plain.cells[0]))
    assert not list(runs.rglob("eval"))


@pytest.mark.skipif(not can_fork(), reason="cells of several processes are forked")
def test_cells_of_several_processes(runs: Path, tmp_path: Path, forked: Command) -> None:
    one = write_config(tmp_path / "one.yaml", digits_config(trainer__max_epochs=1))
    two = write_config(tmp_path / "two.yaml", digits_config(**TWO_PROCESSES, trainer__max_epochs=1))
    # in another process: pytest's has run torch on several threads, after which no fork may
    forked("sweep", "--arms", two, one)
    sweep = latest(runs)
    assert [(cell.arm, cell.processes) for cell in sweep.cells] == [("own/two", 2), ("own/one", 1)]
    forked("fit", "-c", two, "--seed_everything", 0, "--then", "test")
    assert table(sweep.run(sweep.cells[0])) == table(Run.load("own/two", runs))
    assert sweep.run(sweep.cells[0]).eval("test")["processes"] == 2


WRONG: dict[str, tuple[list[str], str]] = {
    "grid key": (["--grid", "trainer.max_epoch=1,2"], "did you mean '--trainer.max_epochs'"),
    "grid value": (["--grid", "trainer.max_epochs=1,many"], "'many' is not int"),
    "override": (["--model.init_args.label_smothing", "0.1"], "did you mean 'label_smoothing'"),
}


@pytest.mark.medium
@pytest.mark.parametrize("name", WRONG)
def test_unknown_settings_are_refused_before_any_cell_runs(
    runs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    arguments, wanted = WRONG[name]
    config = write_config(tmp_path / "arm.yaml", digits_config())
    with pytest.raises(SystemExit) as stopped:
        main(["sweep", "--arms", str(config), *arguments])
    assert stopped.value.code == 2
    error = capfd.readouterr().err
    assert error.startswith("plcourse: error: arm 'own/arm': ")
    assert wanted in error
    assert error.count("\n") == 1
    assert not runs.exists()


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_killed_at_random_moments(reference: Sweep, runs: Path, tmp_path: Path, n_jobs: int) -> None:
    config = write_config(tmp_path / "arm.yaml", digits_config(**LONGER))
    chooser = random.Random(n_jobs)
    for number in range(3):
        name = ["--name", f"kill{number}"]
        started = Started("sweep", "--arms", config, *GRID, *name, "--n_jobs", n_jobs)
        file = runs / "sweeps" / name[1] / "latest" / "sweep.json"
        started.wait_for(file.is_file)
        for _ in range(2):
            time.sleep(chooser.uniform(0, 3))
            started.end(signal.SIGKILL)
            started = Started("sweep", "--resume", name[1], "--n_jobs", n_jobs)
            time.sleep(4)
        started.process.communicate()
        main(["sweep", "--resume", name[1]])
        assert_same_numbers(Sweep.load(name[1], runs), reference)
