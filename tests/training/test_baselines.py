"""Baselines beside a score, from the majority and a linear model, and advice if the training was too short."""

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from plcourse.ddp.data import ImageData
from plcourse.evaluation.data import EvaluationData
from plcourse.kfold.data import TableData
from plcourse.runs.run import Run
from plcourse.training import baselines
from plcourse.training.baselines import find_baselines
from plcourse.training.few_steps import ENOUGH, few_steps
from plcourse.vision.data import VisionData
from support import Command


def opened(data: Any) -> Any:
    data.setup("fit")
    return data


def columns(data: Any, part: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    parts = data.splits
    batches = list(parts.eval_loader(None, part, 64))
    x = np.concatenate([batch[name].flatten(1).numpy() for batch in batches])
    return x, np.concatenate([batch["label"].numpy() for batch in batches])


@pytest.mark.parametrize(
    ("make", "name"), [(lambda: ImageData("digits"), "image"), (lambda: EvaluationData("wine"), "features")]
)
def test_classes_are_compared_with_majority_and_logistic_regression(make: Any, name: str) -> None:
    data = opened(make())
    found = find_baselines(data, {"test/accuracy": 0.5})
    assert found is not None
    (x, y), (x_test, y_test) = columns(data, "train", name), columns(data, "test", name)
    linear = LogisticRegression(C=0.1).fit(StandardScaler().fit(x).transform(x), y)
    expected = (linear.predict(StandardScaler().fit(x).transform(x_test)) == y_test).mean()
    assert found.values["test/accuracy"]["linear"] == pytest.approx(expected, abs=0.01)
    assert found.values["test/accuracy"]["majority"] == pytest.approx((y_test == np.bincount(y).argmax()).mean())
    assert (found.fitted_on, found.scored_on, found.features) == (len(y), len(y_test), x.shape[1])


def test_values_are_compared_with_mean_and_ridge_regression() -> None:
    data = opened(TableData())
    found = find_baselines(data, {"test/rmse": 50.0})
    assert found is not None
    train, test = ([b for b in loader] for loader in (data.train_dataloader(), data.test_dataloader()))  # noqa: C416
    (x, y), (x_test, y_test) = (
        (torch.cat([b["features"] for b in part]).numpy(), torch.cat([b["label"] for b in part]).numpy())
        for part in (train, test)
    )
    ridge = Ridge(alpha=10).fit(StandardScaler().fit(x).transform(x), y)
    error = ridge.predict(StandardScaler().fit(x).transform(x_test)) - y_test
    assert found.values["test/rmse"]["linear"] == pytest.approx(np.sqrt((error**2).mean()), rel=1e-3)
    assert found.values["test/rmse"]["mean"] == pytest.approx(np.sqrt(((y_test - y.mean()) ** 2).mean()), rel=1e-5)


def test_masks_are_compared_with_the_most_frequent_class_of_each_place() -> None:
    train = np.array([[[0, 1], [2, 255]]] * 3)
    test = np.array([[[1, 1], [2, 0]], [[0, 0], [2, 1]]])
    assert baselines._iou_by_place(train, test) == pytest.approx((1 / 4 + 1) / 2)
    found = find_baselines(opened(VisionData()), {"test/foreground_iou": 0.9})
    assert found is not None
    assert 0 < found.values["test/foreground_iou"]["majority"] < 0.3


def test_large_data_are_cut_and_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "TRAIN_LIMIT", 100)
    monkeypatch.setattr(baselines, "TEST_LIMIT", 50)
    monkeypatch.setattr(baselines, "FEATURE_LIMIT", 16)
    state = torch.get_rng_state()
    found = find_baselines(opened(ImageData("digits")), {"test/accuracy": 0.5})
    assert found is not None
    assert torch.equal(torch.get_rng_state(), state), "the run's random numbers stay"
    assert (found.fitted_on, found.scored_on, found.features) == (100, 50, 16)
    assert "fitted on 100 of 1,258 training samples; scored on 50 of 359" in found.lines()[0]


def test_a_score_of_something_else_has_no_baseline() -> None:
    assert find_baselines(opened(ImageData("digits")), {"test/frechet": 3.0}) is None
    assert find_baselines(None, {"test/accuracy": 0.5}) is None


CONFIG = {"trainer": {"max_epochs": 22, "max_steps": -1}, "data": {"init_args": {"batch_size": 64}}}


@pytest.mark.parametrize(
    ("n_train", "processes", "trainer", "flags"),
    [
        (210, 1, {}, "--data.init_args.batch_size 8"),
        (210, 1, {"max_epochs": 5}, "--data.init_args.batch_size 8 --trainer.max_epochs 15"),
        (210, 2, {"max_epochs": 60}, None),
        (210, 1, {"accumulate_grad_batches": 4}, "--data.init_args.batch_size 8 --trainer.accumulate_grad_batches 1"),
        (210, 1, {"max_epochs": -1, "max_steps": 50}, "--data.init_args.batch_size 8 --trainer.max_steps 400"),
        (210, 1, {"limit_train_batches": 2}, None),
        (210, 1, {"fast_dev_run": True}, None),
        (3_500, 1, {}, None),
    ],
)
def test_too_few_steps_are_told_with_what_to_change(
    n_train: int, processes: int, trainer: dict[str, Any], flags: str | None
) -> None:
    advice = few_steps({**CONFIG, "trainer": {**CONFIG["trainer"], **trainer}}, n_train, processes)
    if flags is None:
        assert advice is None
    else:
        assert advice is not None
        assert flags in advice.flags


def test_a_short_fit_says_what_to_paste_and_the_test_what_to_beat(forked: Command, runs: Path) -> None:
    short = ("--data.init_args.source=digits", "--data.init_args.val_size=0.5", "--data.init_args.test_size=0.3")
    network = ("--model.init_args.network.init_args.in_features", "64")
    arguments = ("-c", "ddp/mlp", *short, *network, "--trainer.max_epochs", "2")
    examined = forked("doctor", *arguments).stdout
    assert "note  12 optimizer steps are few: 360 training samples in batches of 64 make 6 steps an epoch" in examined
    fitted = forked("fit", *arguments, "--then", "test").stdout
    run = Run.load("ddp/mlp", runs)
    (line,) = (line for line in fitted.splitlines() if line.startswith("  plcourse fit -c"))
    flags = shlex.split(line.partition("config.yaml")[2])
    assert flags == ["--data.init_args.batch_size", "16", "--trainer.max_epochs", "18"]
    assert " ".join(flags) in examined
    evaluation = run.eval("test")
    section = evaluation["baselines"]
    assert section["test/accuracy"]["linear"] > 0.85
    assert "baselines" not in json.dumps(evaluation["metrics"])
    assert f"linear {section['test/accuracy']['linear']:.4g}" in fitted
    longer = forked("fit", *shlex.split(line)[2:]).stdout
    assert "optimizer steps are few" not in longer
    (finished,) = (line for line in longer.splitlines() if line.startswith("finished: "))
    assert Run.load(finished.removeprefix("finished: "), runs).record["steps"] >= ENOUGH
