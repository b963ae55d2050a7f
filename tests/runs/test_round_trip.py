"""The config that a run records gives the same config when it is read again, whatever its values are."""

import enum
import json
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import ArgumentParser, Namespace

import plcourse
from plcourse import catalog
from plcourse.cli import Resolver, run_verb
from plcourse.cli.request import read_request
from plcourse.errors import UserError
from plcourse.runs.config_yaml import read_tree, write_tree
from plcourse.runs.round_trip import repeatable
from support import digits_config, write_config

THIS = __name__


class Color(enum.Enum):
    RED = 1
    BLUE = 2


def own(x: float) -> float:
    return x


class Plain(pl.Callback):
    """Takes what can be written."""

    def __init__(
        self,
        device: torch.device = torch.device("cpu"),  # noqa: B008
        dtype: torch.dtype = torch.float64,
        color: Color = Color.BLUE,
        text: str = "1e-3",
        texts: list[str] | None = None,
        small: float = 1e-6,
        function: Any = own,
    ) -> None:
        self.known = (device, dtype, color, text, texts, small, function)


class Untyped(pl.Callback):
    """Takes what cannot be written, and says no types."""

    def __init__(self, device=torch.device("cpu"), function=math.exp, color=Color.RED, many=(torch.float32,)) -> None:  # noqa: B008  # pyright: ignore
        self.known = (device, function, color, many)


def resolved(tmp_path: Path, *flags: str) -> tuple[Any, str]:
    """The parsed config and its text."""
    path = write_config(tmp_path / "c.yaml", digits_config())
    resolver = Resolver.of(read_request("fit", ["-c", str(path), "--trust", THIS, *flags]))
    return resolver.config["fit"], resolver.resolved()[0]


def again(tmp_path: Path, text: str, *flags: str) -> Any:
    (tmp_path / "again.yaml").write_text(text)
    resolver = Resolver.of(read_request("fit", ["-c", str(tmp_path / "again.yaml"), "--trust", THIS, *flags]))
    assert resolver.resolved()[0] == text
    return resolver.config["fit"]


@pytest.mark.parametrize(
    "flags",
    [
        [],
        [
            "--trainer.callbacks.device=cuda:1",
            "--trainer.callbacks.dtype=torch.bfloat16",
            "--trainer.callbacks.color=RED",
        ],
        ["--trainer.callbacks.text=1_000", "--trainer.callbacks.texts=['1e5', 'yes', 'null', '12:30', '0x1f', '017']"],
        ["--trainer.callbacks.text=", "--trainer.callbacks.small=.inf"],
    ],
)
def test_devices_types_and_texts_that_look_like_numbers(tmp_path: Path, flags: list[str]) -> None:
    config, text = resolved(tmp_path, f"--trainer.callbacks+={THIS}.Plain", *flags)
    assert "Unable to serialize" not in text
    assert vars(again(tmp_path, text).trainer.callbacks[-1].init_args) == vars(config.trainer.callbacks[-1].init_args)


@pytest.mark.medium
def test_a_default_that_cannot_be_written_is_left_out(tmp_path: Path) -> None:
    config, text = resolved(tmp_path, f"--trainer.callbacks+={THIS}.Untyped")
    written = yaml.safe_load(text)["trainer"]["callbacks"][-1].get("init_args") or {}
    assert not {"device", "function", "many"} & set(written)
    assert vars(again(tmp_path, text).trainer.callbacks[-1].init_args) == vars(config.trainer.callbacks[-1].init_args)


@pytest.mark.medium
def test_lightnings_callbacks_and_strategies(tmp_path: Path) -> None:
    flags = [
        *("--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.01"),
        *("--trainer.callbacks+=GradientAccumulationScheduler", "--trainer.callbacks.scheduling={2: 4}"),
        *("--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks+=Timer", "--trainer.callbacks+=ModelSummary"),
        *("--trainer.strategy=DDPStrategy", "--trainer.profiler=simple", "--trainer.logger=CSVLogger"),
        "--trainer.logger.save_dir=logs",
    ]
    config, text = resolved(tmp_path, *flags)
    read = again(tmp_path, text, "--allow_writes=logs")  # the folder is typed above, and comes from a file here
    callbacks = {each.class_path.rpartition(".")[2]: each.init_args for each in read.trainer.callbacks}
    assert callbacks["StochasticWeightAveraging"].device == torch.device("cpu")
    assert callbacks["GradientAccumulationScheduler"].scheduling == {2: 4}
    assert read.trainer.strategy == config.trainer.strategy


@pytest.mark.parametrize("name", catalog.config_names())
def test_the_packaged_configs_are_written_as_they_are_resolved(name: str) -> None:
    text = catalog.resolved_path(name).read_text()
    assert write_tree(read_tree(text)) == text.split("\n", 2)[2]


@pytest.mark.medium
def test_a_random_seed_is_recorded(runs: Path) -> None:
    fast = {"trainer__max_epochs": 1, "trainer__limit_train_batches": 2, "seed_everything": True}
    first = plcourse.run("fit", digits_config(**fast))
    seed = yaml.safe_load(first.config_path.read_text())["seed_everything"]
    assert type(seed) is int
    assert first.record["seed"] == seed
    run_verb("fit", ["-c", str(first.config_path)])
    repeated = plcourse.Run.load("own/config/latest")
    losses = [[row["value"] for row in run.metrics if row["metric"] == "val/loss"] for run in (first, repeated)]
    assert losses[0] == losses[1]


class Forgetful(ArgumentParser):
    """A parser that reads another value than it has written."""

    def parse_args(self, *_: Any, **__: Any) -> Namespace:
        return Namespace(data=Namespace(x=2))

    def dump(self, namespace: Namespace, *_: Any, **__: Any) -> str:
        return json.dumps(namespace.as_dict())


def test_what_is_not_read_back_is_refused() -> None:
    with pytest.raises(UserError, match=r"^config.yaml could not repeat this run: data.x 1 is read back as 2$"):
        repeatable(Forgetful(), Namespace(data=Namespace(x=1)))
