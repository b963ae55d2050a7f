"""A model's scores are those of its predictions, in every precision."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from plcourse.curriculum.data import CurriculumData
from plcourse.curriculum.model import CurriculumClassifier
from plcourse.ddp.data import ImageData
from plcourse.ddp.model import ImageClassifier
from plcourse.ddp.networks import MLP
from plcourse.evaluation.data import EvaluationData
from plcourse.evaluation.diagnostic_loop import DiagnosticTestLoop
from plcourse.evaluation.diagnostics import Intervals, PerClass
from plcourse.evaluation.model import Classifier
from plcourse.evaluation.uncertainty import Ensemble
from plcourse.kfold.data import TableData
from plcourse.kfold.model import TableRegressor
from plcourse.training.metrics import AccuracyPerClass, ClassificationScores, probabilities
from plcourse.training.trainer import Trainer
from plcourse.vision.data import VisionData
from plcourse.vision.model import ClassifierSegmenter
from plcourse.vision.networks import ConvEncoder
from plcourse.vision.scores import VisionScores
from trainers import quiet_trainer

Make = Callable[[], tuple[pl.LightningModule, pl.LightningDataModule]]


def weak() -> MLP:
    """A network that can hardly tell classes apart: in half precision their scores are often equal."""
    network = MLP(64)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 0.2
    return network


CASES: dict[str, Make] = {
    "ddp": lambda: (ImageClassifier(weak()), ImageData("digits")),
    "curriculum": lambda: (CurriculumClassifier(weak()), CurriculumData("digits")),
    "evaluation": lambda: (Classifier(weak()), EvaluationData("digits")),
    "ensemble": lambda: (Classifier(Ensemble(weak(), 2)), EvaluationData("digits")),
    "vision": lambda: (ClassifierSegmenter(ConvEncoder(widths=[8, 8])), VisionData(batch_size=100)),
}


def scored_and_predicted(make: Make, precision: Any, tmp_path: Path) -> tuple[Trainer, dict[str, Any], dict[str, Any]]:
    """The trainer, the test's metrics, and the predictions' columns with the truth beside them."""
    pl.seed_everything(5, verbose=False)
    model, data = make()
    trainer = quiet_trainer(
        precision=precision,
        limit_test_batches=3,
        limit_predict_batches=3,
        default_root_dir=tmp_path,
        test_loop=(lambda own: DiagnosticTestLoop(own, [Intervals(n_resamples=100), PerClass()], calibrate=False))
        if isinstance(model, Classifier)
        else None,
    )
    (metrics,) = trainer.test(model, data, verbose=False)
    rows: list[Any] = trainer.predict(model, data) or []
    truth = {name: label for batch in data.test_dataloader() for name, label in zip(batch["id"], batch["label"])}  # noqa: B905
    ids = [name for row in rows for name in row["id"]]
    columns = {key: torch.cat([row[key] for row in rows]) for key in rows[0] if isinstance(rows[0][key], Tensor)}
    return trainer, dict(metrics), {**columns, "truth": torch.stack([truth[name] for name in ids])}


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "bf16-mixed"])
@pytest.mark.parametrize("name", CASES)
def test_the_accuracy_is_that_of_the_predictions(name: str, precision: Any, tmp_path: Path) -> None:
    trainer, metrics, found = scored_and_predicted(CASES[name], precision, tmp_path)
    accuracy = (found["label"] == found["truth"]).double().mean().item()
    assert metrics["test/accuracy"] == pytest.approx(accuracy, abs=1e-6)
    assert found["probability"].dtype == torch.float32
    assert torch.equal(found["probability"].argmax(dim=1), found["label"])
    if isinstance(trainer.test_loop, DiagnosticTestLoop):
        findings = trainer.test_loop.findings
        assert findings["intervals"]["test/accuracy"]["value"] == pytest.approx(accuracy, abs=1e-6)
        assert findings["intervals"]["test/f1"]["value"] == pytest.approx(metrics["test/f1"], abs=1e-6)
        assert findings["intervals"]["test/loss"]["value"] == pytest.approx(metrics["test/loss"], rel=1e-5)


@pytest.mark.parametrize("precision", ["bf16-true", "32-true"])
def test_errors_are_taken_from_the_whole_target(precision: Any, tmp_path: Path) -> None:
    _, metrics, found = scored_and_predicted(lambda: (TableRegressor(), TableData()), precision, tmp_path)
    error = found["prediction"].double() - found["truth"].double()
    assert metrics["test/rmse"] == pytest.approx(error.square().mean().sqrt().item(), rel=1e-6)


def test_equal_scores_are_decided_once() -> None:
    """The first of equals, in the score as in the prediction, though the softmax in half precision makes more equal."""
    scores = torch.tensor([[4.0, 4.03125], [2.0, 2.0]], dtype=torch.bfloat16)
    assert probabilities(scores).argmax(dim=1).tolist() == [1, 0]
    own = ClassificationScores(2, "test")
    own.update(scores, torch.tensor([1, 0]))
    assert own.rates.compute()["test/accuracy"] == 1


def test_a_class_without_samples_has_no_accuracy() -> None:
    accuracy = AccuracyPerClass(3)
    accuracy.update(torch.tensor([0, 2, 2]), torch.tensor([0, 0, 2]))
    assert accuracy.compute().tolist() == pytest.approx([0.5, float("nan"), 1.0], nan_ok=True)
    scores = VisionScores("test", ["a", "b", "c"], [], per_class=True)
    logits = torch.eye(3)[[0, 2, 2]]
    scores.update(torch.zeros(3), logits, None, {"label": torch.tensor([0, 0, 2])})
    found = {name: value.item() for name, value in scores.compute().items() if "accuracy" in name}
    assert found == {"test/accuracy": pytest.approx(2 / 3), "test/accuracy_a": 0.5, "test/accuracy_c": 1.0}
