"""NumPy arrays and dataclasses in the state of a callback survive a checkpoint that is loaded without running code."""

import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from plcourse.errors import Interrupted, RunFailed, UserError
from plcourse.training.checkpoint import load
from plcourse.training.plain_state import from_plain, to_plain
from plcourse.training.run_checkpoint import RunCheckpoint
from trainers import BATCHES, SMALL_DATA, digits, short_trainer

pytestmark = SMALL_DATA


@dataclass
class Point:
    x: float
    parts: list["Point"] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.seen = np.arange(3)


@dataclass(frozen=True, slots=True)
class Slotted:
    name: str
    scale: np.ndarray


@dataclass
class Deleting:
    path: str

    def __del__(self) -> None:
        pass


class Histogram(pl.Callback):
    """Counts batches in an array and a dataclass."""

    def __init__(self) -> None:
        self.counts, self.last = np.zeros(3, np.int64), Point(0.0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.counts[batch_idx % 3] += 1
        self.last = Point(self.last.x + 0.5, [self.last])
        self.last.parts[0].parts = []

    def state_dict(self) -> dict[str, Any]:
        return {"counts": self.counts, "last": self.last, "mean": self.counts.mean()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.counts, self.last, self.mean = state_dict["counts"], state_dict["last"], state_dict["mean"]

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        checkpoint["histogram"] = self.counts

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict) -> None:
        self.loaded = checkpoint["histogram"]


def same(a: Any, b: Any) -> bool:
    return type(a) is type(b) and a.dtype == b.dtype and bool((a == b).all())


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array(["a", "b\u00e9"]),
        np.array(3.5),
        np.float64(0.1),
        np.array([(1, 2.0)], dtype=[("n", "i4"), ("x", "f8")]),
        np.array("2026-11-30", dtype="datetime64[D]"),
        np.zeros((0, 2), dtype=bool),
    ],
)
def test_an_array_comes_back_as_it_was(array: Any, tmp_path: Path) -> None:
    torch.save(to_plain({"nested": [array, (array,)]}), tmp_path / "x.pt")
    found = from_plain(torch.load(tmp_path / "x.pt", weights_only=True))
    assert same(found["nested"][0], array)
    assert same(found["nested"][1][0], array)


def test_a_dataclass_comes_back_with_all_its_attributes(tmp_path: Path) -> None:
    point = Point(1.5, [Point(2.0)])
    point.seen = np.array([7])
    torch.save(to_plain([point, Slotted("a", np.ones(2))]), tmp_path / "x.pt")
    found, slotted = from_plain(torch.load(tmp_path / "x.pt", weights_only=True))
    assert (found.x, found.parts[0].x, found.seen.tolist()) == (1.5, 2.0, [7])
    assert (slotted.name, slotted.scale.tolist()) == ("a", [1.0, 1.0])


def test_everything_else_is_the_same_object() -> None:
    state = torch.nn.Linear(2, 2).state_dict()
    assert to_plain({"state_dict": state})["state_dict"] is state
    assert from_plain({"state_dict": state})["state_dict"] is state


@pytest.mark.parametrize("name", ["os:system", "no_such_module:Point", f"{__name__}:Deleting", "builtins:dict"])
def test_a_file_can_name_only_dataclasses_that_are_imported_and_do_nothing(name: str) -> None:
    with pytest.raises(UserError, match=f"contains a {name}, which is no dataclass of an imported module"):
        from_plain({"plcourse_kind": name, "content": {"path": "x"}})


@pytest.mark.parametrize("value", [np.array([object()]), Deleting("x")])
def test_what_cannot_be_plain_is_refused_when_it_is_saved(value: Any, tmp_path: Path) -> None:
    callback = Histogram()
    callback.state_dict = lambda: {"odd": value}  # pyright: ignore[reportAttributeAccessIssue]
    own = short_trainer(callbacks=[callback, RunCheckpoint()], default_root_dir=str(tmp_path))
    with pytest.raises(RunFailed, match="which a safe load refuses") as refused:
        own.fit(*digits())
    assert "\n" not in str(refused.value)


def test_a_callback_resumes_with_its_arrays(tmp_path: Path) -> None:
    def fit(callback: Histogram, stop: bool = False, **arguments: Any) -> None:
        checkpoint = RunCheckpoint()
        own: Any = short_trainer(
            callbacks=[callback, checkpoint], default_root_dir=str(tmp_path), max_epochs=2, limit_train_batches=BATCHES
        )
        own.safe_point.stop_signal = signal.SIGTERM if stop else 0
        own.fit(*digits(), weights_only=True, **arguments)

    first, second = Histogram(), Histogram()
    with pytest.raises(Interrupted):
        fit(first, stop=True)
    last = tmp_path / "checkpoints" / "last.ckpt"
    assert load(last)["global_step"] == 1
    fit(second, ckpt_path=last)
    assert same(second.loaded, first.counts)
    assert second.counts.tolist() == [6, 6, 4], "batches 0 to 7, twice"
    assert second.last.x == 0.5 * 2 * BATCHES
    assert same(second.mean, first.counts.mean())
