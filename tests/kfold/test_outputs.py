"""Outputs of forward: recorded, averaged and played back."""

import pytest
import torch
from torch import nn

from plcourse.errors import RunFailed, UserError
from plcourse.kfold.outputs import AveragedOutputs, BatchOutputs, Recording, out_of_fold_rows


def recording(*outputs: torch.Tensor, ids: str = "ab", labels: torch.Tensor | None = None) -> Recording:
    record = Recording()
    record.batches = [BatchOutputs([f"{name}{i}" for name in ids], labels, [x]) for i, x in enumerate(outputs)]
    return record


def played(ensemble: AveragedOutputs, count: int, ids: str = "ab") -> list[torch.Tensor]:
    outputs = []
    for i in range(count):
        ensemble.on_batch({"id": [f"{name}{i}" for name in ids]})
        outputs.append(ensemble.forward(torch.zeros(1)))
    return outputs


def test_class_scores_are_averaged_as_probabilities() -> None:
    members = torch.randn(5, 2, 2, 3)  # members, batches, samples, classes
    ensemble = AveragedOutputs("logits")
    for member in members:
        ensemble.add(recording(*member))
    for i, output in enumerate(played(ensemble, 2)):
        torch.testing.assert_close(output.softmax(1), members[:, i].softmax(2).mean(0))


def test_values_are_averaged_directly() -> None:
    members = torch.randn(4, 1, 2)
    ensemble = AveragedOutputs("values")
    for member in members:
        ensemble.add(recording(*member))
    torch.testing.assert_close(played(ensemble, 1)[0], members[:, 0].mean(0))


def test_an_ensemble_of_one_model_equals_the_model() -> None:
    logits = torch.randn(1, 2, 3)
    ensemble = AveragedOutputs("logits")
    ensemble.add(recording(*logits))
    torch.testing.assert_close(played(ensemble, 1)[0].softmax(1), logits[0].softmax(1))


def test_members_and_ensemble_must_see_the_same_samples() -> None:
    ensemble = AveragedOutputs("values")
    ensemble.add(recording(torch.zeros(2)))
    with pytest.raises(RunFailed, match="must keep its order"):
        ensemble.add(recording(torch.zeros(2), ids="ba"))
    with pytest.raises(RunFailed, match="must keep its order"):
        played(ensemble, 1, ids="ba")


def test_a_model_that_never_calls_forward_is_refused() -> None:
    silent = Recording()
    silent.batches = [BatchOutputs(["a"], None)]
    with pytest.raises(RunFailed, match=r"never calls: call self\(...\)"):
        AveragedOutputs("values").add(silent)


def test_logits_need_two_or_more_scores_per_sample() -> None:
    with pytest.raises(UserError, match="set combine to values"):
        AveragedOutputs("logits").add(recording(torch.zeros(2)))


def test_the_rows_of_a_classifier() -> None:
    logits, labels = torch.randn(2, 3), torch.tensor([2, 0])
    table = out_of_fold_rows(recording(logits, labels=labels), "logits", repeat=1, fold=4)
    assert table is not None
    assert table.column_names == ["id", "repeat", "fold", "label", "prediction", "probability", "loss"]
    rows = table.to_pydict()
    assert (rows["id"], rows["repeat"], rows["fold"]) == (["a0", "b0"], [1, 1], [4, 4])
    assert (rows["label"], rows["prediction"]) == ([2, 0], logits.argmax(1).tolist())
    torch.testing.assert_close(torch.tensor(rows["probability"]), logits.double().softmax(1).float())
    expected = nn.functional.cross_entropy(logits.double(), labels, reduction="none")
    assert rows["loss"] == pytest.approx(expected.tolist(), rel=1e-12)


def test_the_rows_of_a_regression() -> None:
    labels = torch.tensor([1.0, 4.0])
    table = out_of_fold_rows(recording(torch.tensor([2.0, 2.0]), labels=labels), "values", repeat=0, fold=0)
    assert table is not None
    assert table.select(["label", "prediction", "loss"]).to_pydict() == {
        "label": [1.0, 4.0],
        "prediction": [2.0, 2.0],
        "loss": [1.0, 4.0],
    }


def test_batches_without_labels_have_no_rows() -> None:
    assert out_of_fold_rows(recording(torch.zeros(2, 3)), "logits", 0, 0) is None
