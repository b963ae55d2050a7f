"""`plcourse compare`, as a user types it, on run folders written by hand."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import stats

from compared_runs import BASE, BETTER, made, only_test, paths, series, two_arms
from plcourse.runs.run import Run


class TestSeeds:
    def test_the_numbers_equal_those_of_scipy(self, reported):
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

    def test_an_inconclusive_comparison_says_how_many_seeds_are_needed(self, said, reported):
        inputs = paths(series("a/b", BASE), series("a/c", [0.977, 0.975, 0.983, 0.969, 0.982]))
        out = said(*inputs, "--metric", "test/accuracy")
        needed = only_test(reported(*inputs, "--metric", "test/accuracy"))["needed"]
        assert needed > 5
        assert f"about {needed} seeds would be needed to detect a true difference as large as this one with 80 %" in out
        asked = only_test(reported(*inputs, "--metric", "test/accuracy", "--difference", 0.003))
        assert 5 < asked["needed"] < needed
        assert "to detect a difference of 0.003 with 80 % power" in asked["sentence"]

    def test_a_difference_below_the_given_one_is_equivalent(self, reported):
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

    def test_one_pair_is_not_enough(self, said):
        out = said(made("a/b", 0.9).path, made("a/c", 0.99).path, "--metric", "test/accuracy")
        assert "a/c: nothing can be said from one pair" in out
        assert "+0.09" in out

    def test_p_values_of_several_arms_are_adjusted(self, reported, said):
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

    def test_cells_without_a_partner_are_listed_but_not_used(self, reported, said):
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

    def test_an_unknown_direction_must_be_given(self, refused, reported):
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
    def test_runs_that_differ_otherwise(self, refused, said, reported, options, words):
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

    def test_user_data_from_different_folders(self, refused):
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
    def test_values_that_are_not_finite_are_reported(self, refused, reported, value):
        inputs = two_arms()
        file = inputs[-1] / "eval/test.json"
        file.write_text(re.sub(r'("test/accuracy": )[\d.]+', rf"\g<1>{value}", file.read_text()))
        shown = "nan" if value == "NaN" else "inf"
        assert f"test/accuracy is {shown} in ddp/tuned/" in refused(*inputs, "--metric", "test/accuracy")
        report = reported(*inputs, "--metric", "test/accuracy", "--force")
        assert only_test(report)["n"] == 4
        assert "favors an arm that diverges" in report["forced"][0]

    def test_a_score_that_is_not_a_number(self, refused):
        inputs = two_arms()
        file = inputs[0] / "eval/test.json"
        file.write_text(re.sub(r'("test/accuracy": )[\d.]+', r'\g<1>"high"', file.read_text()))
        assert "is 'high', not a number" in refused(*inputs, "--metric", "test/accuracy")


@pytest.mark.medium
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
