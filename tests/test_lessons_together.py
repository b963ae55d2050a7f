"""What one lesson writes, another reads: real runs of lesson 14 in the hands of lessons 15 and 16 and of `compare`.

Lessons do not import each other. They meet in files, whose form these tests hold fixed, and in what they all owe the
Trainer.
"""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import pytorch_lightning as pl
import torch

from plcourse.curriculum.data import CurriculumData
from plcourse.curriculum.sampler import CurriculumSampler
from plcourse.data import ImageSplits
from plcourse.ddp.data import ImageData
from plcourse.evaluation.data import EvaluationData
from plcourse.gan.gaussians import GaussianGrid
from plcourse.kfold.data import TableData
from plcourse.nlp.data import LanguageData, TextData
from plcourse.runs.run import Run
from plcourse.runs.variants import evaluations
from plcourse.vision.data import VisionData
from support import Command

DIGITS = ("--data.init_args.source=digits", "--data.init_args.val_size=0.1", "--data.init_args.test_size=0.2")


@pytest.fixture
def folds(forked: Command, runs: Path) -> Run:
    """Three folds of the digits, an epoch each."""
    few = ("--trainer.fit_loop.init_args.n_splits=3", "--trainer.max_epochs=1")
    forked("fit", "-c", "kfold/classifier", *few, "--then", "test")
    return Run.load("kfold/classifier", runs)


def test_the_tables_of_a_cross_validation_serve_the_other_lessons(
    forked: Command, folds: Run, runs: Path, tmp_path: Path
) -> None:
    # lesson 15: a curriculum by out-of-fold losses, on the samples that the folds share out
    scorer = "--trainer.fit_loop.init_args.scorer"
    forked(
        *("fit", "-c", "curriculum/easy_first", *DIGITS, "--model.init_args.network.init_args.in_features=64"),
        *(f"{scorer}=CrossValidatedLoss", f"{scorer}.init_args.run={folds.name}", "--trainer.max_epochs=1"),
        *("--runs_root", runs),  # below which the scorer finds it, too
        PLCOURSE_RUNS=str(tmp_path / "elsewhere"),
    )
    table = pd.read_parquet(folds.path / "predictions" / "out_of_fold.parquet").set_index("id")["loss"]
    checkpoint = torch.load(Run.load("curriculum/easy_first", runs).checkpoint("last"), weights_only=True)
    scores = checkpoint["loops"]["fit_loop"]["state_dict"]["curriculum"]["scores"]
    images = ImageSplits("digits", val_size=0.1, test_size=0.2)
    train = [images.source.ids[i] for i in images.parts["train"].tolist()]
    assert len(train) == len(scores) > 1_000
    assert scores.tolist() == pytest.approx(table[train].tolist())

    # lesson 16: an ensemble of the folds, diagnosed; its scores are those of lesson 14's own ensemble, up to rounding:
    # both give each fold the test part as it normalises images itself
    by_lesson_14, network = folds.eval("test")["metrics"], "--model.init_args.network"
    forked(
        *("test", "-c", "evaluation/ensemble", "--ckpt_path", folds.checkpoint("best"), *DIGITS, f"{network}=MLP"),
        *(f"{network}.init_args.in_features=64", f"{network}.init_args.hidden=[128]"),
        f"--model.init_args.ensemble=['{folds.path}/folds/*']",
    )
    (found,) = (each for each in evaluations(folds) if each.is_variant)
    assert "calibration" in found.content  # written where the checkpoint lies, by the diagnosing loop
    for name, value in by_lesson_14.items():
        assert found.metrics[name] == pytest.approx(value, rel=0.01), name

    # compare: the folds are pairs, tested with the correction for their shared training sets
    wider = ("--model.init_args.network.init_args.hidden=[16]", "--trainer.fit_loop.init_args.n_splits=3")
    forked("cp", "kfold/classifier", tmp_path / "narrow.yaml")
    forked("fit", "-c", tmp_path / "narrow.yaml", *wider, "--trainer.max_epochs=1")
    narrow = Run.load("own/narrow", runs)
    forked("compare", folds.path, narrow.path, "--metric", "val/accuracy", "--json", tmp_path / "report.json")
    (comparison,) = json.loads((tmp_path / "report.json").read_text())["comparisons"]
    (test,) = comparison["tests"]
    assert (comparison["unit"], test["n"]) == ("fold", 3)
    assert test["test_train_ratio"] == pytest.approx(1 / 2, rel=0.01)
    assert test["p"] > test["p_naive"]


@pytest.mark.medium
@pytest.mark.parametrize(
    ("make", "batch_size"),
    [
        (lambda: ImageData("digits", val_size=0.1, batch_size=100), 100),
        (lambda: CurriculumData("digits", val_size=0.1, batch_size=100), 100),
        (lambda: VisionData(batch_size=500), 500),
        (lambda: EvaluationData("digits", batch_size=100), 100),
        (lambda: EvaluationData("wine", batch_size=10), 10),
        (lambda: EvaluationData("generated", rows=51_000, val_size=100, test_size=150, batch_size=9_000), 9_000),
        (lambda: GaussianGrid(n_train=1_050, batch_size=100), 100),
        (lambda: TableData(batch_size=28), 28),
        (lambda: TextData("rotten_tomatoes", batch_size=1_000), 1_000),
        (lambda: LanguageData("rotten_tomatoes", block_size=1_000, batch_size=80), 80),
        (lambda: LanguageData("rotten_tomatoes", block_size=1_000, batch_size=80, order="tracks"), 80),
    ],
    ids=[
        "ddp",
        "curriculum",
        "vision",
        "evaluation",
        "table",
        "generated",
        "gan",
        "kfold",
        "texts",
        "windows",
        "tracks",
    ],
)
@pytest.mark.parametrize("limit", [1_000, 6, 3])
def test_all_data_weigh_accumulated_batches_and_repeat_those_that_are_to_be_overfitted(
    make: Callable[[], pl.LightningDataModule], batch_size: int, limit: int
) -> None:
    data = make()
    data.trainer = SimpleNamespace(  # pyright: ignore[reportAttributeAccessIssue] of a Trainer what loaders ask for
        global_rank=0,
        world_size=1,
        overfit_batches=2,
        accumulate_grad_batches=4,
        num_training_batches=limit,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    data.setup("fit")
    loader = data.train_dataloader()
    if isinstance(data, CurriculumData):
        loader.replan(CurriculumSampler(loader.plan))
    plan = loader.plan
    sizes = [len(batch) for batch in plan.batches(0)]
    left_out = plan.n % batch_size if isinstance(data, LanguageData) else 0
    assert (sum(sizes), plan.global_batch_size) == (plan.n - left_out, batch_size)
    sizes = sizes[:limit]
    assert len(sizes) % 4, "the last step must have fewer batches for the weights to matter"
    weights = [batch["rank_weight"] for _, batch in zip(sizes, loader, strict=False)]
    for first in range(0, len(sizes), 4):
        step = range(first, min(first + 4, len(sizes)))
        means = [weights[at] / 4 / sizes[at] for at in step]  # what a sample weighs in Lightning's mean
        assert means == pytest.approx([1 / sum(sizes[at] for at in step)] * len(step))
    epochs = [[batch.tolist() for batch in plan.batches(epoch)] for epoch in (0, 1)]
    assert epochs[0] == epochs[1]
