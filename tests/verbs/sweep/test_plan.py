"""What a sweep is asked for: the plan from flags and files, mistakes in one line, and the records. No torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from plcourse import catalog
from plcourse.errors import UserError
from plcourse.runs.configs import find_config, parse_header
from plcourse.runs.run import Run, list_runs
from plcourse.verbs.sweep.command import find_sweep, read_command
from plcourse.verbs.sweep.plan import SweepPlan, grid_label
from plcourse.verbs.sweep.sweep import Sweep
from sweep_plans import ARMS, made, plan_of


def from_file(content: dict[str, Any] | str, *arguments: str) -> SweepPlan:
    text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False)
    Path("mine.yaml").write_text(text)
    return plan_of("-c", "mine.yaml", *arguments)


@pytest.mark.medium
def test_flags_make_a_plan() -> None:
    words = [*ARMS, "--seeds", "0..2,7", "--grid", "model.init_args.optimizer.init_args.lr=1e-1,0.01", "--n_jobs", "2"]
    command = read_command([*words, "--trainer.max_epochs", "1", "--optimizer=Adam", "--metric", "val/loss"])
    plan = command.plan
    assert plan is not None
    assert [arm.name for arm in plan.arms] == ["ddp/one_process", "ddp/two_processes"]
    assert plan.seeds == (0, 1, 2, 7)
    assert plan.grid == {"model.init_args.optimizer.init_args.lr": [0.1, 0.01]}
    assert plan.overrides == {"trainer.max_epochs": 1, "optimizer": "Adam"}
    assert plan.then == ("test",)
    assert plan.metric == {"name": "val/loss", "mode": "min"}
    assert plan.name == "one_process-vs-two_processes"
    assert command.n_jobs == 2
    assert len(plan.cells()) == 2 * 4 * 2
    flags = plan.flags(plan.arms[0], plan.points()[1])
    assert flags[:2] == ["--config", "ddp/one_process"]
    assert flags[2:] == [
        "--trainer.max_epochs=1",
        "--optimizer=Adam",
        "--model.init_args.optimizer.init_args.lr=0.01",
    ]


@pytest.mark.parametrize(
    ("metric", "mode"),
    [("val/mse", "min"), ("val/fid", "min"), ("val/bits_per_character", "min"), ("val/f1", "max"), ("val/own", "max")],
)
def test_the_name_of_a_metric_decides_which_way_is_better(metric: str, mode: str) -> None:
    assert plan_of(*ARMS, "--metric", metric).metric == {"name": metric, "mode": mode}


def test_grid_values_may_be_lists_with_commas_inside_brackets() -> None:
    plan = plan_of(*ARMS, "--grid", "model.init_args.network.init_args.widths=[8,16],[16,32]", "trainer.max_epochs=1,2")
    assert plan.grid["model.init_args.network.init_args.widths"] == [[8, 16], [16, 32]]
    assert grid_label(plan.points()[0]) == "widths=[8,16] max_epochs=1"
    assert len(plan.points()) == 4


def test_flags_override_the_plan_of_a_file() -> None:
    content = {
        "arms": {
            "plain": {"config": "ddp/one_process"},
            "slow": {"config": "ddp/one_process", "overrides": {"a.b": 1}},
        },
        "seeds": [3, 5],
        "grid": {"x.lr": [1, 2]},
        "overrides": {"trainer.max_epochs": 2},
        "then": "validate,test",
        "metric": "test/f1",
        "mode": "max",
    }
    plan = from_file(content, "--seeds", "1", "--trainer.max_epochs", "9", "--grid", "y.lr=3")
    assert plan.seeds == (1,)
    assert plan.overrides == {"trainer.max_epochs": 9}
    assert plan.grid == {"x.lr": [1, 2], "y.lr": [3]}
    assert plan.then == ("validate", "test")
    assert plan.name == "mine"
    assert plan.flags(plan.arms[1], {}) == ["--config", "ddp/one_process", "--a.b=1", "--trainer.max_epochs=9"]
    assert grid_label(plan.points()[0]) == "x.lr=1 y.lr=3", "the shortest names that tell the keys apart"


def test_cells_are_ordered_by_seed_and_have_separate_folders() -> None:
    plan = plan_of(*ARMS, "--seeds", "0..1", "--grid", "a.lr=0.1,0.2")
    cells = plan.cells()
    assert [cell.seed for cell in cells] == [0] * 4 + [1] * 4
    assert [cell.arm for cell in cells[:2]] == ["ddp/one_process", "ddp/two_processes"]
    assert cells[0].run == "cells/ddp_one_process/seed0-lr_0.1"
    assert len({cell.run for cell in cells}) == 8
    assert cells[3].label == "ddp/two_processes seed 0 lr=0.2"
    strange = plan_of(*ARMS, "--grid", "a.lr='../x','.. x'")
    folders = [cell.run for cell in strange.cells()]
    assert len(set(folders)) == 4
    assert not [folder for folder in folders if " " in folder or "/../" in folder]


def test_every_packaged_sweep_is_valid() -> None:
    assert catalog.sweep_names()
    for name in catalog.sweep_names():
        plan = plan_of("-c", name)
        assert plan.metric is not None
        assert parse_header(find_sweep(name)).verbs == ("sweep",)
        assert all(arm.config in catalog.config_names() for arm in plan.arms)
        assert plan_of("-c", f"{name}.yaml") == plan


MISTAKES: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "needs -c SWEEP, --arms CONFIG..., or --resume"),
    "arm": (["--arms", "ddp/one_proces"], "arm 'ddp/one_proces': .*did you mean 'ddp/one_process'"),
    "arm twice": (["--arms", "ddp/one_process", "ddp/one_process"], "two arms are called 'ddp/one_process'"),
    "a lesson": (["--arms", "ddp"], "'ddp' is a lesson"),
    "sweep": (["-c", "sweeps/ddp_learning_rat"], "did you mean 'sweeps/ddp_learning_rate'"),
    "a run's config": (["-c", "ddp/one_process"], "plcourse sweep --arms ddp/one_process"),
    "seeds backwards": ([*ARMS, "--seeds", "4..0"], "run backwards; did you mean '0..4'"),
    "seeds": ([*ARMS, "--seeds", "0...4"], "whole numbers such as 0,1,2 or a range"),
    "seed of letters": ([*ARMS, "--seeds", "a"], "seeds contains 'a'"),
    "seed below 0": ([*ARMS, "--seeds=-1"], "seeds contains '-1'"),
    "seed too large": ([*ARMS, "--seeds", str(2**32)], "the largest is 4294967295"),
    "seed twice": ([*ARMS, "--seeds", "0..3,2"], "duplicate seed 2"),
    "cells": ([*ARMS, "--seeds", "0..9000"], "18,002 cells exceed the limit of 10,000"),
    "seed_everything": ([*ARMS, "--seed_everything", "3"], "--seeds 0..4"),
    "grid of seeds": ([*ARMS, "--grid", "seed_everything=1,2"], "is set by `seeds`"),
    "grid without values": ([*ARMS, "--grid", "a.lr"], "--grid takes KEY=VALUE,VALUE"),
    "grid empty": ([*ARMS, "--grid", "a.lr="], "a list of one value or more"),
    "grid value twice": ([*ARMS, "--grid", "a.lr=1,1"], "has a duplicate value"),
    "grid and override": ([*ARMS, "--grid", "a.lr=1,2", "--a.lr", "3"], "no effect"),
    "grid of no setting": ([*ARMS, "--grid", "run=1,2"], "'run' is not a setting"),
    "metric": ([*ARMS, "--metric", "accuracy"], "names such as test/accuracy"),
    "metric without test": ([*ARMS, "--metric", "test/f1", "--then", "validate"], "--then test"),
    "mode": ([*ARMS, "--metric", "test/f1", "--mode", "maximum"], "it must be max or min"),
    "mode alone": ([*ARMS, "--mode", "max"], "mode without metric"),
    "then": ([*ARMS, "--then", "tset"], "did you mean 'test'"),
    "name": ([*ARMS, "--name", "a/b"], "'a/b' is not a valid name"),
    "latest": ([*ARMS, "--name", "latest"], "not a valid name"),
    "n_jobs": ([*ARMS, "--n_jobs", "0"], "from 1 to 256"),
    "flag": ([*ARMS, "--seed", "0..4"], "unknown flag '--seed'; did you mean '--seeds'"),
    "print_config": ([*ARMS, "--print_config"], "is for single runs"),
    "no value": ([*ARMS, "--trainer.max_epochs"], "takes a value"),
    "stray": ([*ARMS, "--trainer.max_epochs", "1", "stray"], "unknown argument 'stray'"),
    "two sweeps": (["-c", "a", "-c", "b"], "takes one -c"),
    "name to resume": (["--resume", "--name", "x"], "plcourse sweep --resume x"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_line(name: str) -> None:
    arguments, wanted = MISTAKES[name]
    with pytest.raises(UserError, match=wanted) as error:
        read_command(arguments)
    assert "\n" not in str(error.value)
    assert error.value.status == 2


IN_FILES: dict[str, tuple[dict[str, Any] | str, str]] = {
    "key": (
        {"arms": ["ddp/one_process"], "seed": 1},
        r"mine.yaml:3: unknown key 'seed' in a sweep; did you mean 'seeds'",
    ),
    "a run's config": ({"trainer": {}}, "belongs to the config of a run"),
    "no arms": ({"seeds": [1]}, "mine.yaml: a sweep needs arms"),
    "arms empty": ({"arms": []}, r"mine.yaml:1: arms is \[\]"),
    "arms of numbers": ({"arms": [3]}, "arms contains 3"),
    "arm's key": ({"arms": {"x": {"config": "ddp/one_process", "override": {}}}}, "did you mean 'overrides'"),
    "arm without config": ({"arms": {"x": {"overrides": {}}}}, "mine.yaml:2: arm 'x'"),
    "arm's config": ({"arms": {"x": {"config": "ddp/one_proces"}}}, "mine.yaml:2: .*did you mean 'ddp/one_process'"),
    "seeds empty": ({"arms": ["ddp/one_process"], "seeds": []}, "mine.yaml:3: seeds is empty"),
    "seeds": ({"arms": ["ddp/one_process"], "seeds": "4..0"}, "mine.yaml:3: the seeds 4..0 run backwards"),
    "seed of truth": ({"arms": ["ddp/one_process"], "seeds": [True]}, "seeds contains 'True'"),
    "grid": ({"arms": ["ddp/one_process"], "grid": {"a.lr": 1}}, "mine.yaml:4: grid: 'a.lr' is 1; it must be a list"),
    "grid empty": ({"arms": ["ddp/one_process"], "grid": {"a.lr": []}}, "mine.yaml:4: grid: 'a.lr' is "),
    "grid a list": ({"arms": ["ddp/one_process"], "grid": [1]}, "must map dotted keys"),
    "overrides": ({"arms": ["ddp/one_process"], "overrides": {"seed_everything": 1}}, "is set by `seeds`"),
    "key with blanks": ({"arms": ["ddp/one_process"], "overrides": {"a b": 1}}, "'a b' is not a valid key"),
    "then": ({"arms": ["ddp/one_process"], "then": 3}, "then is 3"),
    "empty": ("", "empty"),
    "twice": ("arms: [ddp/one_process]\nseeds: 0\nseeds: 1\n", "duplicate key 'seeds'"),
}


@pytest.mark.parametrize("name", IN_FILES)
def test_mistakes_in_files_name_the_line(name: str) -> None:
    content, wanted = IN_FILES[name]
    with pytest.raises(UserError, match=wanted) as error:
        from_file(content)
    assert "\n" not in str(error.value)


def test_a_file_can_name_two_arms_with_the_same_file_name() -> None:
    for folder in ("a", "b"):
        Path(folder).mkdir()
        Path(folder, "mine.yaml").write_text("model: X\n")
    with pytest.raises(UserError, match="two arms are called 'own/mine'; a sweep file can give each a name"):
        plan_of("--arms", "a/mine.yaml", "b/mine.yaml")
    arms = from_file({"arms": {"first": {"config": "a/mine.yaml"}, "second": {"config": "b/mine.yaml"}}}).arms
    assert [(arm.name, arm.config) for arm in arms] == [("first", "a/mine.yaml"), ("second", "b/mine.yaml")]


def test_a_new_sweep_is_a_folder_of_pending_runs(runs: Path) -> None:
    sweep = made(plan_of(*ARMS, "--seeds", "0..1"), runs)
    record = json.loads((sweep.path / "sweep.json").read_text())
    assert record["schema"] == 1
    assert record["arms"] == ["ddp/one_process", "ddp/two_processes"]
    assert record["command"]
    assert set(record["cells"][0]) == {"arm", "seed", "grid", "status", "run", "error", "seconds", "processes"}
    assert (runs / "sweeps" / sweep.path.parent.name / "latest").resolve() == sweep.path.resolve()
    cell = sweep.cells[2]
    run = Run.load(sweep.path / cell.run)
    assert (run.status, run.record["seed"], run.record["config"]) == ("pending", 1, "ddp/one_process")
    assert "seed_everything: 1\n" in run.config_path.read_text()
    assert list_runs(runs) == []
    assert find_config(str(run.config_path))


def test_sweeps_are_found_by_folder_name_and_latest(runs: Path) -> None:
    with pytest.raises(UserError, match="no sweep to resume"):
        Sweep.load("latest", runs)
    first = made(plan_of(*ARMS, "--name", "first"), runs)
    second = made(plan_of(*ARMS, "--name", "second"), runs)
    for name in ("first", "sweeps/first", "first/latest", f"first/{first.path.name}", str(first.path)):
        assert Sweep.load(name, runs).path.resolve() == first.path.resolve(), name
    assert Sweep.load("latest", runs).path.name == max(first.path.name, second.path.name)
    with pytest.raises(UserError, match=r"no sweep 'other' in .*; known are first, second"):
        Sweep.load("other", runs)
    with pytest.raises(UserError, match="did you mean 'second'"):
        Sweep.load("secnd", runs)


def test_reopening_keeps_finished_cells_and_refuses_another_plan(runs: Path) -> None:
    plan = plan_of(*ARMS, "--seeds", "0..1")
    sweep = made(plan, runs)
    sweep.update(sweep.cells[0], status="finished")
    sweep.update(sweep.cells[1], status="failed", error="x")
    sweep.run(sweep.cells[2]).update(status="finished", seconds=3.0)  # the sweep was killed before it wrote this down
    sweep.close(stopped=True)
    again = Sweep.load("latest", runs)
    assert again.status == "interrupted"
    assert [cell.status for cell in again.reopen(plan)] == ["pending", "pending"]
    assert [cell.error for cell in again.cells] == [None] * 4
    assert again.cells[2].seconds == 3.0
    with pytest.raises(UserError, match="was made with other seeds than this command gives"):
        again.reopen(plan_of(*ARMS, "--seeds", "0..2"))


@pytest.mark.medium
def test_a_running_sweep_cannot_be_reopened(runs: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from plcourse.verbs.sweep.sweep import ResolvedConfig, Sweep\n"
        "from plcourse.verbs.sweep.command import read_command\n"
        "plan = read_command(sys.argv[1:]).plan\n"
        "made = Sweep.create(plan, [ResolvedConfig('seed_everything: 0\\n', 1)] * 2, Path(sys.argv[-1]), 1)\n"
        "with made.claimed(): print(made.path, flush=True), time.sleep(100)"
    )
    command = [sys.executable, "-c", code, *ARMS, "--runs_root", str(runs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        path = process.stdout.readline().strip()
        sweep = Sweep(path, runs)
        for force in (False, True):
            with pytest.raises(UserError, match=f"is still running .process {process.pid}"), sweep.claimed(force):
                pass
        assert sweep.status == "running"
        process.kill()
        process.wait()
        assert sweep.status == "killed"
        with sweep.claimed():
            assert len(sweep.reopen(None)) == 2


@pytest.mark.medium
def test_mistakes_are_reported_without_importing_torch() -> None:
    code = (
        "import sys; from plcourse.__main__ import main\n"
        "try: main(['sweep', '--arms', 'ddp/one_process', '--seeds', '4..0'])\n"
        "except SystemExit as stop: print(stop.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"
    assert "run backwards" in done.stderr
