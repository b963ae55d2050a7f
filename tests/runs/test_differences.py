"""In which settings two configs differ."""

import copy
from typing import Any

import pytest
import yaml

from plcourse import catalog
from plcourse.runs.differences import differences

RUN: dict[str, Any] = yaml.safe_load(catalog.resolved_path("ddp/mlp").read_text())


def changed(**changes: Any) -> dict[str, Any]:
    """The resolved config of ddp/mlp with some keys changed, `__` standing for dots."""
    tree = copy.deepcopy(RUN)
    for key, value in changes.items():
        *parents, last = key.split("__")
        place: Any = tree
        for parent in parents:
            place = place[int(parent) if isinstance(place, list) else parent]
        place[last] = value
    return tree


def test_a_value() -> None:
    asked = changed(model__init_args__optimizer__init_args__lr=0.001, trainer__max_epochs=12)
    assert differences(RUN, asked) == {
        "trainer.max_epochs": (10, 12),
        "model.init_args.optimizer.init_args.lr": (0.1, 0.001),
    }


def test_short_names_and_defaults_left_out_are_the_same() -> None:
    short = {
        "model": {
            "class_path": "ImageClassifier",
            "init_args": {"network": {"class_path": "MLP"}, "lr_scheduler": "WarmupCosine"},
        },
        "trainer": {"callbacks": [{"class_path": "RunCheckpoint", "init_args": {"monitor": "val/loss"}}]},
        "data": {"class_path": "ImageData", "init_args": {"batch_size": 64}},
    }
    assert differences(RUN, short) == differences(short, RUN) == {}
    elsewhere = changed(model__init_args__network__class_path="plcourse.networks.MLP")
    assert differences(RUN, elsewhere) == {}  # a class of the suite that has moved since


def test_another_class_is_one_difference() -> None:
    asked = changed(model__init_args__network={"class_path": "ResNet", "init_args": {"blocks": 2}})
    ((key, (old, new)),) = differences(RUN, asked).items()
    assert key == "model.init_args.network"
    assert (old["init_args"]["hidden"], new["init_args"]) == ([400, 200], {"blocks": 2})
    own = changed(model__class_path="mine.a.Net")
    assert list(differences(own, changed(model__class_path="mine.b.Net"))) == ["model"]


def test_lists() -> None:
    hidden = "model.init_args.network.init_args.hidden"
    assert differences(RUN, changed(model__init_args__network__init_args__hidden=[400])) == {
        hidden: ([400, 200], [400])
    }
    assert differences(RUN, changed(model__init_args__network__init_args__hidden=[400, 100])) == {
        f"{hidden}.1": (200, 100)
    }
    asked = changed(trainer__callbacks__0__init_args__monitor="val/accuracy")
    assert differences(RUN, asked) == {"trainer.callbacks.0.init_args.monitor": ("val/loss", "val/accuracy")}


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        (1, 1.0, True),
        (True, 1, False),
        (float("nan"), float("nan"), True),
        ({"a": 1}, {"a": 1, "b": None}, False),  # a dictionary has no defaults
        (None, 0, False),
        ("MLP", "plcourse.ddp.networks.MLP", True),
        ("01", 1, False),
    ],
)
def test_values(old: Any, new: Any, same: bool) -> None:
    found = differences(
        {"data": {"class_path": "D", "init_args": {"x": old}}}, {"data": {"class_path": "D", "init_args": {"x": new}}}
    )
    assert (found == {}) is same
