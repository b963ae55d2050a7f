"""Whatever a predict_step returns becomes the columns that a user expects."""

from collections import namedtuple
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from plcourse.errors import UserError
from plcourse.runs.prediction_columns import Origin
from plcourse.runs.prediction_writer import to_table

SCORES = torch.tensor([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]])
Named = namedtuple("Named", "label score")
RESULTS: dict[str, tuple[Any, dict[str, list[Any]]]] = {
    "one number per sample": (SCORES[:, 0], {"prediction": [0.25, 0.5, 1.0]}),
    "K numbers per sample": (SCORES, {"prediction_0": [0.25, 0.5, 1.0], "prediction_1": [0.75, 0.5, 0.0]}),
    "an array": (SCORES.numpy(), {"prediction_0": [0.25, 0.5, 1.0], "prediction_1": [0.75, 0.5, 0.0]}),
    "maps": (SCORES.reshape(1, 3, 2), {"prediction": [[0.25, 0.75, 0.5, 0.5, 1.0, 0.0]]}),
    "a mean over the batch": (torch.tensor(2.5), {"prediction": [2.5]}),
    "a tuple": (
        (torch.tensor([1, 0, 0]), SCORES),
        {"prediction_0": [1, 0, 0], "prediction_1": [[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]]},
    ),
    "a named tuple": (Named(["a", "b"], torch.ones(2)), {"label": ["a", "b"], "score": [1.0, 1.0]}),
    "a mapping in a mapping": (
        {"answer": {"label": torch.tensor([2, 1])}, "of": "mine", "epoch": torch.tensor(3)},
        {"answer.label": [2, 1], "of": ["mine", "mine"], "epoch": [3, 3]},
    ),
    "a tuple in a mapping": ({"box": (torch.zeros(1), torch.ones(1))}, {"box_0": [0.0], "box_1": [1.0]}),
    "a mapping per sample": (
        [{"boxes": torch.zeros(2, 4), "label": torch.tensor(1)}, {"boxes": torch.zeros(0, 4), "label": 2}],
        {"boxes": [[[0.0] * 4] * 2, []], "label": [1, 2]},
    ),
    "a tensor per sample": ([torch.ones(2), torch.ones(1)], {"prediction": [[1.0, 1.0], [1.0]]}),
    "texts": (["a", "b"], {"prediction": ["a", "b"]}),
    "half precision": (torch.tensor([0.5], dtype=torch.bfloat16), {"prediction": [0.5]}),
}


@pytest.mark.parametrize("name", RESULTS)
def test_columns(name: str) -> None:
    result, expected = RESULTS[name]
    assert to_table(result).to_pydict() == expected


def test_what_is_no_table_is_named() -> None:
    with pytest.raises(UserError, match="returned a list of object, which is no column of a table: return a tensor"):
        to_table([object()])


IDS = torch.tensor([7, 9, 8])
ORIGINS: dict[str, tuple[Origin, dict[str, list[Any]]]] = {
    "whole numbers as ids": (Origin({"id": IDS}), {"id": [7, 9, 8]}),
    "ids and indices": (Origin({"id": ["a", "b", "c"]}, [3, 1, 2]), {"id": ["a", "b", "c"]}),
    "indices": (Origin((IDS, IDS), [3, 1, 2]), {"index": [3, 1, 2]}),
    "several loaders": (Origin(IDS, [3, 1, 2], 1), {"loader": [1, 1, 1], "index": [3, 1, 2]}),
    "nothing known": (Origin(IDS), {}),
    "ids of something else": (Origin({"id": IDS[:2]}), {}),
    "ids that are no column": (Origin({"id": SCORES}), {}),
}


@pytest.mark.parametrize("name", ORIGINS)
def test_rows_tell_their_samples(name: str) -> None:
    origin, expected = ORIGINS[name]
    assert to_table({"x": np.zeros(3)}, origin=origin).to_pydict() == {**expected, "x": [0.0, 0.0, 0.0]}


def test_a_prediction_keeps_its_own_columns() -> None:
    table = to_table({"id": pa.array(["x"]), "index": [5]}, origin=Origin({"id": IDS[:1]}, [0], 2))
    assert table.to_pydict() == {"loader": [2], "id": ["x"], "index": [5]}
