"""`plcourse compare`, as a user types it, on run folders written by hand."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import stats

from plcourse.__main__ import main
from plcourse.runs import record
from plcourse.runs.run import Run
from plcourse.verbs.compare.cells import optimizer_steps
from plcourse.verbs.compare.comparison import Options, compare_runs
from plcourse.verbs.compare.show import as_text

BASE = [0.975, 0.978, 0.979, 0.970, 0.981]
BETTER = [0.984, 0.988, 0.991, 0.979, 0.989]


@pytest.fixture(scope="module")
def environment():
    """What a run records of this machine, asked once: git and the packages are slow to ask for each run."""
    return record.environment()


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, environment):
    """An empty current folder, whose runs are in `runs`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(record, "environment", lambda: environment)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # hundreds of runs, none of which has to outlive a power cut
    monkeypatch.delenv("PLCOURSE_RUNS", raising=False)
    monkeypatch.delenv("PLCOURSE_DEBUG", raising=False)
    return tmp_path


@pytest.fixture
def typed(capfdbinary):
    """Runs `plcourse compare ...`; gives its status, output and errors."""

    def run(*argv: object) -> tuple[int, str, str]:
        status: Any = 0
        try:
            assert main(["compare", *map(str, argv)]) is None
        except SystemExit as error:
            status = error.code
            assert status != 0
        out, err = capfdbinary.readouterr()
        return status, out.decode(), err.decode()

    return run


@pytest.fixture
def said(typed):
    """Runs a comparison that succeeds; gives what it prints."""

    def run(*argv: object) -> str:
        status, out, err = typed(*argv)
        assert (status, err) == (0, "")
        return out

    return run


@pytest.fixture
def reported(said):
    """Runs a comparison that succeeds; gives its JSON."""
    return lambda *argv: json.loads(said(*argv, "--json", "-"), parse_constant=pytest.fail)


@pytest.fixture
def refused(typed):
    """Runs a comparison that is refused; gives the one line."""

    def run(*argv: object) -> str:
        status, out, err = typed(*argv)
        assert (status, out) == (2, ""), err
        assert re.fullmatch(r"plcourse: error: [^\n]+\n", err)
        return err

    return run


def made(
    arm: str,
    accuracy: float | None,
    seed: int | None = 0,
    *,
    root: str | Path = "runs",
    steps: int | None = 100,
    status: str = "finished",
    seen: int = 1000,
    checkpoint: str = "best.ckpt",
    lr: float = 0.1,
    record: dict | None = None,
    **data: object,
) -> Run:
    """A run's folder with a config, a table of metrics and an evaluation."""
    run = Run.create(arm, root, {"verb": "fit", "seed": seed, **(record or {})})
    init = {"source": "mnist5k", "split_seed": 0, "val_size": 250, "test_size": 1000, **data}
    config = {
        "seed_everything": seed,
        "trainer": {"callbacks": [{"class_path": "C", "init_args": {"monitor": "val/odd", "mode": "min"}}]},
        "model": {"class_path": "M", "init_args": {"lr": lr}},
        "data": {"class_path": "D", "init_args": init},
    }
    run.config_path.write_text(yaml.safe_dump(config))
    if steps is not None:
        rows = f"9,0,val/loss,0.5\n{steps - 1},1,val/loss,{0.2 + (seed or 0) / 100}\n"
        (run.path / "metrics.csv").write_text(f"step,epoch,metric,value\n{rows}")
    if accuracy is not None:
        write_eval(run.path, accuracy, seen, checkpoint)
    if status != "running":
        run.finish(status, best={"metric": "val/odd", "value": 0.1 + (seed or 0) / 50, "step": 50, "epoch": 0})
    return run


def write_eval(folder: Path, accuracy: float, seen: int = 1000, checkpoint: str = "best.ckpt") -> None:
    (folder / "eval").mkdir(parents=True, exist_ok=True)
    metrics = {"test/accuracy": accuracy, "test/loss": 1 - accuracy}
    content = {"metrics": metrics, "coverage": {"seen": seen}, "checkpoint": f"checkpoints/{checkpoint}"}
    (folder / "eval/test.json").write_text(json.dumps(content))


def series(arm: str, values: list[float], **options: Any) -> list[Run]:
    """One run per seed, counted from 0."""
    return [made(arm, value, seed, **options) for seed, value in enumerate(values)]


def paths(*runs: list[Run]) -> list[Path]:
    return [run.path for each in runs for run in each]


def two_arms(**options: object) -> list[Path]:
    return paths(series("ddp/base", BASE), series("ddp/tuned", BETTER, **options))


def sweep(cells: list[tuple[str, int, dict, float]], name: str = "lr", stamp: str = "20261123-101500", **more) -> Path:
    """A sweep's folder; each cell is a run below it."""
    folder = Path("runs/sweeps") / name / stamp
    folder.mkdir(parents=True)
    entries = []
    for arm, seed, grid, value in cells:
        run = made(arm, value, seed, root=folder, lr=grid.get("model.init_args.lr", 0.1))
        place = run.path.relative_to(folder).as_posix()
        entries.append({"arm": arm, "seed": seed, "grid": grid, "status": "finished", "run": place})
    arms = list(dict.fromkeys(cell[0] for cell in cells))
    metric = {"name": "test/accuracy", "mode": "max"}
    content = {"schema": 1, "name": name, "arms": arms, "metric": metric, "cells": entries, **more}
    (folder / "sweep.json").write_text(json.dumps(content))
    return folder


def only_test(report: dict) -> dict:
    [comparison] = report["comparisons"]
    [test] = comparison["tests"]
    return test


class TestSeeds:
    def test_the_numbers_are_scipys(self, reported):
        report = reported(*two_arms(), "--metric", "test/accuracy")
        test, reference = only_test(report), stats.ttest_rel(BETTER, BASE)
        interval = reference.confidence_interval()
        assert (report["mode"], report["source"], report["forced"]) == ("max", "eval", [])
        assert (test["arm"], test["baseline"], test["n"], test["df"]) == ("ddp/tuned", "ddp/base", 5, 4)
        assert test["difference"] == pytest.approx(np.mean(BETTER) - np.mean(BASE))
        assert (test["low"], test["high"]) == pytest.approx((interval.low, interval.high))
        assert test["p"] == pytest.approx(reference.pvalue)
        assert test["p_holm"] == test["p"]
        assert test["verdict"] == "better"
        base, tuned = report["comparisons"][0]["arms"]
        assert (base["arm"], base["baseline"], base["n"]) == ("ddp/base", True, 5)
        assert tuned["mean"] == pytest.approx(np.mean(BETTER))
        assert tuned["sd"] == pytest.approx(np.std(BETTER, ddof=1))

    def test_the_table(self, said):
        inputs = two_arms()
        out = said(*inputs, "--metric", "test/accuracy")
        lines = out.splitlines()
        assert lines[0] == "test/accuracy (larger is better)"
        assert re.fullmatch(r"arm +n +mean +sd +difference +95 % interval +p +d", lines[2])
        assert re.fullmatch(r"ddp/base +5 +0\.9766 +0\.0043 +baseline", lines[3])
        assert re.fullmatch(r"ddp/tuned +5 .* \+0\.0096 +\+0\.0077 to \+0\.0115 +0\.0001 +\+\d\.\d\d", lines[4])
        assert "ddp/tuned is better than ddp/base by 0.0096 (95 % interval +0.007717 to" in out
        assert all(out.count(f"{path}\n") == 1 for path in inputs)
        assert "each value is the score of the run's evaluation" in out

    def test_a_smaller_loss_is_better(self, reported):
        inputs = two_arms()
        report = reported(*inputs, "--metric", "test/loss")
        assert report["mode"] == "min"
        assert only_test(report)["verdict"] == "better"
        assert only_test(report)["difference"] < 0
        flipped = reported("ddp/base", "ddp/tuned", *inputs, "--metric", "test/loss", "--mode", "max")
        assert only_test(flipped)["verdict"] == "worse"

    def test_inconclusive_says_how_many_seeds(self, said, reported):
        inputs = paths(series("a/b", BASE), series("a/c", [0.977, 0.975, 0.983, 0.969, 0.982]))
        out = said(*inputs, "--metric", "test/accuracy")
        needed = only_test(reported(*inputs, "--metric", "test/accuracy"))["needed"]
        assert needed > 5
        assert f"about {needed} seeds would be needed to detect a true difference as large as this one with 80 %" in out
        asked = only_test(reported(*inputs, "--metric", "test/accuracy", "--difference", 0.003))
        assert 5 < asked["needed"] < needed
        assert "to detect a difference of 0.003 with 80 % power" in asked["sentence"]

    def test_close_enough_is_equivalent(self, reported):
        close = [value + (-1) ** seed / 10_000 for seed, value in enumerate(BASE)]
        inputs = paths(series("a/b", BASE), series("a/c", close))
        test = only_test(reported(*inputs, "--metric", "test/accuracy", "--difference", 0.01))
        assert test["verdict"] == "equivalent"
        assert "differ by less than 0.01" in test["sentence"]

    def test_identical(self, reported):
        test = only_test(reported(*paths(series("a/b", BASE), series("a/c", BASE)), "--metric", "test/accuracy"))
        assert (test["verdict"], test["p"], test["low"]) == ("identical", None, None)
        assert test["sentence"] == "a/c and a/b are identical on all 5 seeds."

    def test_a_constant_difference_is_no_proof(self, said):
        inputs = paths(series("a/b", [0.97, 0.98]), series("a/c", [0.98, 0.99]))
        assert "all 2 seeds differ by exactly +0.01, which leaves no variance to test with" in said(
            *inputs, "--metric", "test/accuracy"
        )

    def test_one_pair_says_nothing(self, said):
        out = said(made("a/b", 0.9).path, made("a/c", 0.99).path, "--metric", "test/accuracy")
        assert "a/c: nothing can be said from one pair" in out
        assert "+0.09" in out

    def test_several_arms_are_adjusted(self, reported, said):
        worse = [v - d for v, d in zip(BASE, [0.002, 0.0, 0.004, 0.001, 0.003], strict=True)]
        inputs = [*two_arms(), *paths(series("ddp/worse", worse))]
        tests = reported(*inputs, "--metric", "test/accuracy")["comparisons"][0]["tests"]
        assert tests[0]["p_holm"] == pytest.approx(2 * tests[0]["p"])
        assert tests[1]["p_holm"] == tests[1]["p"]
        out = said(*inputs, "--metric", "test/accuracy")
        assert "p (Holm)" in out
        assert "after Holm" in out
        turned = reported(*inputs, "--metric", "test/accuracy", "--baseline", "ddp/worse")["comparisons"][0]
        assert [test["arm"] for test in turned["tests"]] == ["ddp/base", "ddp/tuned"]
        assert turned["baseline"] == turned["arms"][0]["arm"] == "ddp/worse"

    def test_what_has_no_partner_is_listed_and_left_out(self, reported, said):
        inputs = [*two_arms(), made("ddp/tuned", 0.1, seed=7).path]
        comparison = reported(*inputs, "--metric", "test/accuracy")["comparisons"][0]
        assert comparison["tests"][0]["n"] == 5
        alone = [cell for cell in comparison["cells"] if not cell["used"]]
        assert [(cell["seed"], cell["left_out"]) for cell in alone] == [(7, "no partner")]
        assert re.search(r"ddp/tuned +7 +100 +no partner +runs/", said(*inputs, "--metric", "test/accuracy"))

    def test_no_pair_at_all(self, said):
        inputs = [made("a/b", 0.9, 0).path, made("a/b", 0.8, 1).path, made("a/c", 0.9, 2).path]
        assert "nothing can be said: there is no seed for which it and" in said(*inputs, "--metric", "test/accuracy")


class TestInputs:
    def test_names_and_repeats(self, reported):
        two_arms()
        test = only_test(reported("ddp/base", "ddp/tuned", *Path("runs/ddp/tuned").iterdir(), "--metric", "test/loss"))
        assert test["n"] == 1  # base's latest, and the link `latest` beside tuned's five is one of them

    def test_another_root(self, reported):
        inputs = paths(series("a/b", BASE, root="far"), series("a/c", BETTER, root="far"))
        names = [path.relative_to("far") for path in inputs]
        report = reported(*names, "--metric", "test/accuracy", "--runs_root", "far")
        assert only_test(report)["n"] == 5

    def test_the_evaluation_comes_before_the_table(self, reported):
        inputs = two_arms()
        best = reported(*inputs, "--metric", "val/odd")
        assert (best["source"], best["mode"]) == ("best", "min")  # as the checkpoint callback watches it
        last = reported(*inputs, "--metric", "val/loss")
        assert (last["source"], last["mode"]) == ("last", "min")
        assert "last one in the run's metrics.csv" in " ".join(last["notes"])

    def test_older_evaluations_do_not_count(self, reported):
        inputs = two_arms()
        for path in inputs:
            (path / "eval/test-1.json").write_text(json.dumps({"metrics": {"test/accuracy": 0.5}}))
        assert only_test(reported(*inputs, "--metric", "test/accuracy"))["verdict"] == "better"

    def test_a_missing_evaluation(self, refused, said, reported):
        inputs = [*two_arms(), made("ddp/tuned", None, 5).path, made("ddp/base", 0.9, 5).path]
        line = refused(*inputs, "--metric", "test/accuracy")
        assert "1 of the runs have no test/accuracy in eval/test.json: ddp/tuned/" in line
        assert "FORCED  1 of the runs have no test/accuracy" in said(*inputs, "--metric", "test/accuracy", "--force")

    def test_a_metric_that_is_not_there(self, refused):
        inputs = two_arms()
        assert "did you mean 'test/accuracy'?" in refused(*inputs, "--metric", "test/acuracy")
        assert "which score? --metric is one of test/accuracy, test/loss, val/loss, val/odd" in refused(*inputs)
        bare = paths([made("a/b", None), made("a/c", None)])
        line = refused(*bare, "--metric", "test/accuracy")
        assert f"`plcourse test --run {bare[0]}`" in line

    def test_which_way_is_better_must_be_known(self, refused, reported):
        inputs = two_arms()
        for path in inputs:
            (path / "eval/val.json").write_text(json.dumps({"metrics": {"val/thing": 0.5}}))
        assert "give --mode max or --mode min" in refused(*inputs, "--metric", "val/thing")
        assert reported(*inputs, "--metric", "val/thing", "--mode", "max")["mode"] == "max"

    def test_a_run_without_steps_is_noted(self, said):
        out = said(*two_arms(record={}), "--metric", "test/accuracy")
        assert "not checked" not in out
        inputs = paths(series("a/b", BASE, steps=None), series("a/c", BETTER))
        for path in inputs[:5]:
            Run(path).update(best=None)
        out = said(*inputs, "--metric", "test/loss")
        assert re.search(r"- a/b/\S+ does not record its number of optimizer steps", out)

    def test_mistakes(self, refused):
        inputs = two_arms()
        assert "RUN_OR_SWEEP" in refused()
        assert "did you mean '--metric'?" in refused(*inputs, "--metrik", "x")
        assert "did you mean 'ddp/tuned'?" in refused("ddp/tuend", "--metric", "x")
        metric = ("--metric", "test/accuracy")
        assert "did you mean 'ddp/base'?" in refused(*inputs, *metric, "--baseline", "ddp/bas")
        assert "only one arm, ddp/base" in refused(*inputs[:5], *metric)
        assert "invalid choice" in refused(*inputs, *metric, "--mode", "best")
        assert "--alpha is 5" in refused(*inputs, *metric, "--alpha", 5)
        assert "--difference is 0" in refused(*inputs, *metric, "--difference", 0)
        assert "go together" in refused(*inputs, *metric, "--n_train", 5)
        assert "--n_test is 0" in refused(*inputs, *metric, "--n_train", 5, "--n_test", 0)

    def test_the_same_seed_twice(self, refused):
        inputs = [*two_arms(), made("ddp/tuned", 0.9, 0, lr=0.5).path]
        line = refused(*inputs, "--metric", "test/accuracy")
        assert "arm ddp/tuned has seed 0 twice" in line
        assert "they differ in model.init_args.lr: --grid_by" in line
        again = [*inputs[:-1], made("ddp/tuned", 0.9, 0).path]
        assert "leave one out" in refused(*again, "--metric", "test/accuracy")


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"source": "digits"}, "different data: source is mnist5k and digits in ddp/base/"),
            ({"label_noise": 0.4}, "different data: label_noise is - and 0.4 in ddp/base/"),
            ({"seen": 500}, "different data: n_test is 1000 and 500 in ddp/base/"),
            ({"split_seed": 3}, "different splits: split_seed is 0 and 3 in ddp/base/"),
            ({"val_size": 100}, "different splits: val_size is 250 and 100 in ddp/base/"),
            ({"steps": 50 + 1}, "different optimizer steps: 100 and 51 in ddp/base/"),
            ({"record": {"steps": 7}}, "different optimizer steps: 100 and 7 in ddp/base/"),
            ({"checkpoint": "last.ckpt"}, "different checkpoints: best.ckpt and last.ckpt were scored in ddp/base/"),
        ],
    )
    def test_unlike_runs(self, refused, said, reported, options, words):
        inputs = two_arms(**options)
        line = refused(*inputs, "--metric", "test/accuracy")
        assert words in line
        assert "; --force " in line
        out = said(*inputs, "--metric", "test/accuracy", "--force")
        forced = [line for line in out.splitlines() if line.startswith("FORCED  ")]
        assert len(forced) == 1
        assert words in forced[0]
        assert "and 4 more" in forced[0]
        report = reported(*inputs, "--metric", "test/accuracy", "--force")
        assert only_test(report)["n"] == 5
        assert report["forced"] == [forced[0].removeprefix("FORCED  ")]

    def test_files_of_ones_own_are_told_apart(self, refused):
        own = {"source": "image_folder"}
        inputs = paths(series("a/b", BASE, root="runs", **own), series("a/c", BETTER, **own))
        config = yaml.safe_load((inputs[-1] / "config.yaml").read_text())
        config["data"]["init_args"]["root"] = "elsewhere"
        (inputs[-1] / "config.yaml").write_text(yaml.safe_dump(config))
        assert "different data: root is - and elsewhere" in refused(*inputs, "--metric", "test/accuracy")

    def test_a_run_without_a_config(self, refused, said):
        inputs = two_arms()
        (inputs[0] / "config.yaml").unlink()
        line = refused(*inputs, "--metric", "test/accuracy")
        assert re.search(r"1 of the runs have no config.yaml, so their data cannot be checked: ddp/base/", line)
        out = said(*inputs, "--metric", "test/accuracy", "--force")
        assert "FORCED  1 of the runs have no config.yaml" in out
        assert re.search(r"ddp/base +0 +100 +no config.yaml", out)
        assert "4 seeds" in out

    @pytest.mark.parametrize("status", ["failed", "interrupted"])
    def test_unfinished_runs(self, refused, said, status):
        inputs = [*two_arms(), *paths([made("ddp/base", 0.9, 5), made("ddp/tuned", 0.99, 5, status=status)])]
        line = refused(*inputs, "--metric", "test/accuracy")
        assert re.search(rf"1 of the runs did not finish: ddp/tuned/\S+ \({status}\); --force leaves them out", line)
        out = said(*inputs, "--metric", "test/accuracy", "--force")
        assert re.search(rf"FORCED  1 of the runs did not finish: ddp/tuned/\S+ \({status}\): leaves them out", out)
        assert f"its run is {status}" in out
        assert "no partner" in out

    def test_nothing_finished(self, refused):
        inputs = paths(series("a/b", BASE, status="failed"), series("a/c", BASE, status="failed"))
        assert "none of the runs can be used" in refused(*inputs, "--metric", "test/accuracy", "--force")

    @pytest.mark.parametrize("value", ["NaN", "Infinity"])
    def test_values_that_are_not_finite_are_named(self, refused, reported, value):
        inputs = two_arms()
        file = inputs[-1] / "eval/test.json"
        file.write_text(re.sub(r'("test/accuracy": )[\d.]+', rf"\g<1>{value}", file.read_text()))
        shown = "nan" if value == "NaN" else "inf"
        assert f"test/accuracy is {shown} in ddp/tuned/" in refused(*inputs, "--metric", "test/accuracy")
        report = reported(*inputs, "--metric", "test/accuracy", "--force")
        assert only_test(report)["n"] == 4
        assert "favors an arm that diverges" in report["forced"][0]

    def test_a_score_that_is_no_number(self, refused):
        inputs = two_arms()
        file = inputs[0] / "eval/test.json"
        file.write_text(re.sub(r'("test/accuracy": )[\d.]+', r'\g<1>"high"', file.read_text()))
        assert "is 'high', not a number" in refused(*inputs, "--metric", "test/accuracy")


class TestSplits:
    def repeated(self, **options) -> list[Path]:
        rng = np.random.default_rng(0)
        shares = {"val_size": 0.1, "test_size": 0.2, **options}
        return [
            made(arm, float(0.97 + shift + rng.normal() / 300), 0, split_seed=split, **shares).path
            for arm, shift in (("a/b", 0), ("a/c", 0.006))
            for split in range(6)
        ]

    def test_repeated_splits_get_the_corrected_test(self, reported, said):
        inputs = self.repeated()
        report = reported(*inputs, "--metric", "test/accuracy")
        [comparison], test = report["comparisons"], only_test(report)
        assert comparison["unit"] == "split"
        assert comparison["test"] == "corrected resampled t (Nadeau and Bengio 2003)"
        assert test["test_train_ratio"] == pytest.approx(0.2 / 0.7)
        assert test["variance_factor"] == pytest.approx(1 / 6 + 0.2 / 0.7)
        naive: Any = stats.ttest_1samp(test["differences"], 0)
        t = naive.statistic / np.sqrt(6 * test["variance_factor"])
        assert test["p"] == pytest.approx(2 * stats.t.sf(abs(t), 5))
        assert test["p_naive"] == pytest.approx(naive.pvalue)
        out = said(*inputs, "--metric", "test/accuracy")
        assert "p (naive)" in out
        assert "n_test/n_train = 0.2857, from val_size and test_size" in out
        assert re.search(r"cell +seed +split_seed +steps +value +run", out)

    def test_sizes_from_the_flags_the_record_or_not_at_all(self, reported, refused):
        inputs = self.repeated(val_size=250, test_size=1000)
        assert "give --n_train N and --n_test N" in refused(*inputs, "--metric", "test/accuracy")
        flags = ("--n_train", 3000, "--n_test", 1000)
        asked = reported(*inputs, "--metric", "test/accuracy", *flags)
        assert only_test(asked)["test_train_ratio"] == pytest.approx(1 / 3)
        for path in inputs:
            Run(path).update(data={"n_train": 4000, "n_val": 250})
        assert only_test(reported(*inputs, "--metric", "test/accuracy"))["test_train_ratio"] == 0.25

    def test_no_number_of_splits_is_enough(self, said):
        out = said(*self.repeated(), "--metric", "test/accuracy", "--difference", 0.0005)
        assert "no number of further splits of these data is enough to detect a difference of 0.0005" in out

    def test_seeds_of_a_split_are_averaged(self, reported):
        inputs = [
            made(arm, value + seed / 1000 + split / 500, seed, split_seed=split, val_size=0.1, test_size=0.2).path
            for arm, value in (("a/b", 0.9), ("a/c", 0.95))
            for split in range(3)
            for seed in range(2)
        ]
        report = reported(*inputs, "--metric", "test/accuracy")
        test = only_test(report)
        assert (test["n"], test["pairs"]) == (3, 6)
        assert "averaged first" in " ".join(report["notes"])

    def folded(self, arm: str, shift: float, stage: str = "val") -> Path:
        run = made(arm, None)
        for k in range(5):
            folder = run.path / f"folds/{k}"
            (folder / "eval").mkdir(parents=True)
            metrics = {f"{stage}/accuracy": 0.9 + shift * (1 + k / 10) + k / 100}
            (folder / f"eval/{stage}.json").write_text(json.dumps({"metrics": metrics}))
            (folder / "metrics.csv").write_text("step,epoch,metric,value\n49,0,val/loss,0.5\n")
        return run.path

    def test_the_folds_of_a_run(self, reported):
        report = reported(self.folded("kfold/a", 0), self.folded("kfold/b", 0.02), "--metric", "val/accuracy")
        [comparison], test = report["comparisons"], only_test(report)
        assert (comparison["unit"], test["n"], test["test_train_ratio"]) == ("fold", 5, 0.25)
        cells = comparison["cells"]
        assert [cell["fold"] for cell in cells] == [0, 1, 2, 3, 4] * 2
        assert cells[1]["run"].endswith("folds/1")
        assert {cell["steps"] for cell in cells} == {50}

    def test_folds_scored_on_one_test_part_need_the_sizes(self, refused):
        inputs = [self.folded(arm, shift, "test") for arm, shift in (("kfold/a", 0), ("kfold/b", 0.02))]
        assert "--n_train N" in refused(*inputs, "--metric", "test/accuracy")


class TestSweeps:
    cells = tuple(
        (arm, seed, {"model.init_args.lr": lr}, value + shift + lr / 100)
        for lr, factor in ((0.1, 1), (0.01, -1))
        for arm in ("ddp/base", "ddp/tuned")
        for seed, value in enumerate(BASE)
        for shift in [factor * (arm == "ddp/tuned") * (0.004 + seed / 2000)]
    )

    @pytest.mark.parametrize("name", ["lr", "sweeps/lr", "sweeps/lr/latest", "runs/sweeps/lr/20261123-101500"])
    def test_by_name_and_folder_with_its_own_metric(self, reported, name):
        sweep(list(self.cells))
        sweep([("ddp/base", 0, {}, 0.1)], stamp="20251123-101500")
        report = reported(name)
        assert (report["metric"], report["mode"]) == ("test/accuracy", "max")
        [comparison] = report["comparisons"]
        arms = [arm["arm"] for arm in comparison["arms"]]
        assert arms == ["ddp/base lr=0.1", "ddp/base lr=0.01", "ddp/tuned lr=0.1", "ddp/tuned lr=0.01"]
        assert [test["n"] for test in comparison["tests"]] == [5, 5, 5]

    def test_one_comparison_per_value(self, reported, said):
        sweep(list(self.cells))
        report = reported("lr", "--grid_by", "model.init_args.lr")
        first, second = report["comparisons"]
        assert (first["grid"], second["grid"]) == ({"model.init_args.lr": 0.1}, {"model.init_args.lr": 0.01})
        assert [first["tests"][0]["verdict"], second["tests"][0]["verdict"]] == ["better", "worse"]
        assert first["tests"][0]["p_holm"] == pytest.approx(2 * first["tests"][0]["p"])  # both are one family
        assert "\nmodel.init_args.lr = 0.01\n" in said("lr", "--grid_by", "model.init_args.lr")

    def test_values_are_the_arms_of_a_single_config(self, reported):
        sweep([cell for cell in self.cells if cell[0] == "ddp/base"])
        [comparison] = reported("lr", "--grid_by", "model.init_args.lr")["comparisons"]
        assert [arm["arm"] for arm in comparison["arms"]] == ["lr=0.1", "lr=0.01"]

    def test_a_key_of_the_runs_configs(self, reported, refused):
        inputs = paths(series("a/b", BASE, lr=0.1), series("a/b", BETTER, lr=0.5))
        assert "model.init_args.lr: --grid_by compares by one" in refused(*inputs, "--metric", "test/accuracy")
        report = reported(*inputs, "--metric", "test/accuracy", "--grid_by", "model.init_args.lr")
        assert only_test(report)["arm"] == "lr=0.5"
        line = refused(*inputs, "--metric", "test/accuracy", "--grid_by", "lr")
        assert "did you mean 'model.init_args.lr'?" in line
        assert "did you mean 'model.init_args.lr'?" in refused(
            *inputs, "--metric", "test/loss", "--grid_by", "model.lr"
        )

    def test_cells_that_did_not_finish(self, refused, said):
        folder = sweep(list(self.cells))
        content = json.loads((folder / "sweep.json").read_text())
        content["cells"][0] |= {"status": "failed", "run": None}
        content["cells"][1] |= {"run": "gone"}
        (folder / "sweep.json").write_text(json.dumps(content))
        assert "ddp/base lr=0.1 seed 0 (failed), ddp/base lr=0.1 seed 1 (missing); --force" in refused(folder)
        out = said(folder, "--force")
        assert re.search(r"ddp/base lr=0.1 +0 +- +its run is failed +-\n", out)

    def test_mistakes(self, refused):
        folder = sweep(list(self.cells))
        assert "no sweep 'lrr' in 'runs'; did you mean 'lr'?" in refused("lrr")
        assert "no sweep 'else' in 'runs'; known sweeps are lr" in refused("else")
        (folder / "sweep.json").write_text("{")
        assert "is not valid JSON" in refused("lr")
        (folder / "sweep.json").write_text('{"cells": 3}')
        assert "no list of cells" in refused("lr")
        (folder / "sweep.json").write_text('{"schema": 99, "cells": []}')
        assert "newer plcourse" in refused("lr")

    def test_arms_that_are_not_everywhere(self, refused):
        cells = [("a/b", 0, {"k": 1}, 0.9), ("a/c", 0, {"k": 2}, 0.9)]
        sweep(cells)
        assert "nothing to compare with at k = 1" in refused("lr", "--grid_by", "k")


class TestOutputs:
    def test_a_json_file_beside_the_table(self, said, reported, refused):
        inputs = two_arms()
        out = said(*inputs, "--metric", "test/accuracy", "--json", "a.json")
        assert out.endswith("JSON in a.json\n")
        assert json.loads(Path("a.json").read_text()) == reported(*inputs, "--metric", "test/accuracy")
        said(*inputs, "--metric", "test/loss", "--json", "a.json")
        assert json.loads(Path("a.json").read_text())["metric"] == "test/loss"
        precious = inputs[0] / "run.json"
        assert "is not a comparison" in refused(*inputs, "--metric", "test/accuracy", "--json", precious)

    def test_the_schema(self, reported):
        report = reported(*two_arms(), "--metric", "test/accuracy")
        assert list(report) == [
            *("schema", "metric", "mode", "source", "alpha", "power", "difference_to_detect"),
            *("forced", "notes", "comparisons"),
        ]
        [comparison] = report["comparisons"]
        assert list(comparison) == [
            *("grid", "baseline", "unit", "test", "test_train_ratio", "arms", "tests", "cells"),
        ]
        assert {key: comparison[key] for key in ("grid", "unit", "test", "test_train_ratio")} == {
            "grid": None,
            "unit": "seed",
            "test": "paired t",
            "test_train_ratio": None,
        }
        assert set(comparison["cells"][0]) == {
            *("arm", "config", "seed", "fold", "split", "grid", "value", "steps", "status", "used", "left_out", "run"),
        }
        assert comparison["cells"][0]["split"] == {"split_seed": 0, "val_size": 250, "test_size": 1000}
        assert len(comparison["tests"][0]["differences"]) == 5

    @pytest.mark.parametrize("values", [BETTER, BASE, [0.9]], ids=["tested", "identical", "one pair"])
    def test_a_plot(self, said, values):
        inputs = paths(series("a/b", BASE), series("a/c", values))
        out = said(*inputs, "--metric", "test/accuracy", "--plot", "a.png")
        assert out.endswith("plot in a.png\n")
        assert Path("a.png").read_bytes().startswith(b"\x89PNG")

    def test_a_plot_of_a_grid_without_pairs(self, typed):
        sweep([*TestSweeps.cells, ("ddp/other", 9, {"model.init_args.lr": 0.1}, 0.9)])
        status, out, err = typed("lr", "--plot", "a.png", "--json", "-", "--grid_by", "model.init_args.lr")
        assert (status, err) == (0, "")
        assert json.loads(out)["comparisons"][0]["tests"][1]["n"] == 0
        assert Path("a.png").stat().st_size > 1000

    def test_mistakes(self, refused):
        inputs = two_arms()
        metric = ("--metric", "test/accuracy")
        assert "must end with .png" in refused(*inputs, *metric, "--plot", "a.pdf")
        assert "must end with .json" in refused(*inputs, *metric, "--json", "a.txt")
        assert "'far' does not exist" in refused(*inputs, *metric, "--json", "far/a.json")
        assert not list(Path().glob("a.*"))

    def test_a_report_from_python(self):
        result = compare_runs([str(path) for path in two_arms()], Options(metric="test/accuracy"))
        assert as_text(result).startswith("test/accuracy")


class TestOptimizerSteps:
    def test_one_more_than_the_last_step(self):
        assert optimizer_steps(made("a/b", 0.9, steps=1298)) == 1298

    def test_the_record_knows_best(self):
        assert optimizer_steps(made("a/b", 0.9, record={"steps": 40})) == 40

    def test_the_best_score_counts(self):
        assert optimizer_steps(made("a/b", 0.9, steps=20)) == 51

    def test_unknown(self):
        assert optimizer_steps(made("a/b", 0.9, steps=None, status="running")) is None


def test_no_torch_is_imported():
    inputs = [str(path) for path in two_arms()]
    code = (
        "import sys; from plcourse.__main__ import main; "
        "main(['compare', *sys.argv[1:], '--metric', 'test/accuracy', '--plot', 'a.png']); "
        "assert not {'torch', 'pytorch_lightning', 'lightning_fabric'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, *inputs], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "is better than" in done.stdout
