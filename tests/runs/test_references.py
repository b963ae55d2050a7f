"""A config that names runs means the runs that there were before its own began, and records which."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace

import plcourse
from curriculum_configs import curriculum_config
from plcourse.cli import run_verb
from plcourse.runs.references import named_runs, settle
from plcourse.runs.run import Run
from support import write_config


@pytest.fixture
def two(tmp_path: Path) -> tuple[Run, Run]:
    """An older and a newer run of one variant, below the root `tmp_path`."""
    first = Run.create("own/a", tmp_path, {})
    return first, Run.create("own/a", tmp_path, {})


def scorer(name: str) -> Namespace:
    return Namespace(class_path="plcourse.curriculum.scorers.CrossValidatedLoss", init_args=Namespace(run=name))


@pytest.mark.parametrize("name", ["own/a", "own/a/latest", "{root}/own/a/latest", "{newer}"])
def test_a_name_is_the_newest_run(name: str, two: tuple[Run, Run], tmp_path: Path) -> None:
    given = name.format(root=tmp_path, newer=two[1].path)
    config = Namespace(trainer=Namespace(fit_loop=Namespace(class_path="L", init_args=Namespace(scorer=scorer(given)))))
    settle(config, named_runs(config, tmp_path))
    assert config.trainer.fit_loop.init_args.scorer.init_args.run == str(two[1].path.resolve())


def test_a_run_that_goes_on_means_the_one_before_it(two: tuple[Run, Run], tmp_path: Path) -> None:
    for name in ("own/a", "own/a/latest"):
        ((key, value),) = named_runs(scorer(name), tmp_path, before=two[1])
        assert (key, value) == (["init_args", "run"], str(two[0].path.resolve()))
    ((_, value),) = named_runs(scorer(str(two[1].path)), tmp_path, before=two[1])
    assert value == str(two[1].path.resolve()), "a run that is named by its folder is that run"


def test_paths_through_latest_in_any_key(two: tuple[Run, Run], tmp_path: Path) -> None:
    newer = two[1].path.resolve()
    config = Namespace(
        data=Namespace(class_path="D", init_args=Namespace(paths=[f"{tmp_path}/own/a/latest/x.parquet"]))
    )
    config.data.init_args.text = "the latest/news"
    config.data.init_args.other = "nowhere/latest/x"
    config.data.init_args.plain = "own/a"
    settle(config, named_runs(config, tmp_path))
    assert vars(config.data.init_args) == {
        "paths": [str(newer / "x.parquet")],
        "text": "the latest/news",
        "other": "nowhere/latest/x",
        "plain": "own/a",
    }


@pytest.mark.medium
def test_a_curriculum_that_refers_to_its_own_earlier_run(tmp_path: Path, runs: Path) -> None:
    def config(scorer: dict[str, Any]) -> Path:
        changes = {"trainer__max_epochs": 1, "trainer__fit_loop__init_args__scorer": scorer}
        return write_config(tmp_path / "own.yaml", curriculum_config(**changes))

    first = plcourse.run("fit", config({"class_path": "ClassifierMargin"}))
    own = config({"class_path": "ReferenceLoss", "init_args": {"checkpoint": "own/own/latest"}})
    second = plcourse.run("fit", own)
    loop = yaml.safe_load(second.config_path.read_text())["trainer"]["fit_loop"]["init_args"]
    assert loop["scorer"]["init_args"]["checkpoint"] == str(first.path.resolve())
    run_verb("fit", ["-c", str(own), "--ckpt_path", "last", "--trainer.max_epochs", "2"])
    assert [list(change["settings"]) for change in second.record["changes"]] == [["trainer.max_epochs"]]
    assert second.status == "finished"
