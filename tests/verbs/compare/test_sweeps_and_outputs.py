"""Comparisons of a sweep's arms, and what they are written into."""

import json
import re
from pathlib import Path

import pytest

from compared_runs import BASE, BETTER, made, only_test, paths, series, sweep, two_arms
from plcourse.verbs.compare.cells import optimizer_steps
from plcourse.verbs.compare.comparison import Options, compare_runs
from plcourse.verbs.compare.show import as_text


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

    def test_arms_by_a_key_of_the_configs(self, reported, refused):
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

    def test_a_grid_value_with_only_one_arm(self, refused):
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

    def test_recorded_steps_take_precedence(self):
        assert optimizer_steps(made("a/b", 0.9, record={"steps": 40})) == 40

    def test_the_step_of_the_best_score_counts(self):
        assert optimizer_steps(made("a/b", 0.9, steps=20)) == 51

    def test_unknown(self):
        assert optimizer_steps(made("a/b", 0.9, steps=None, status="running")) is None
