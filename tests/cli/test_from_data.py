"""A model takes the number of classes, channels and features from the data that a person brings."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from plcourse.cli import Resolver
from plcourse.cli.request import read_request
from plcourse.errors import UserError
from plcourse.runs.run import Run
from support import Command


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three classes of colored pictures, 12 x 12 pixels."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(("ant", "bee", "cow")):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for i in range(12):
            pixels = rng.integers(0, 60, (12, 12, 3), np.uint8)
            pixels[:, :, k] += 150
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "photos"


def flags_of(photos: Path) -> list[str]:
    sizes = ["--data.init_args.val_size=0.25", "--data.init_args.test_size=0.25", "--data.init_args.image_size=12"]
    return ["--data.init_args.source=image_folder", f"--data.init_args.root={photos}", *sizes]


def resolved(*arguments: Any) -> dict[str, Any]:
    text, _ = Resolver.of(read_request("fit", [str(word) for word in arguments])).resolved()
    return yaml.safe_load(text)


@pytest.mark.parametrize("name", ["ddp/one_process", "evaluation/classifier", "export/classifier", "kfold/classifier"])
def test_images_give_channels_and_classes(name: str, photos: Path) -> None:
    arguments = resolved("-c", name, *flags_of(photos))["model"]["init_args"]
    network = arguments["network"]["init_args"]
    assert (arguments["num_classes"], network["num_classes"]) == (3, 3)
    assert network.get("channels", 3) == 3
    assert network.get("in_features", 432) == 432


def test_a_generator_gets_the_channels_of_its_images(photos: Path) -> None:
    config = resolved("-c", "gan/r3gan", *flags_of(photos))
    arguments = config["model"]["init_args"]
    assert [arguments[name]["init_args"]["channels"] for name in ("generator", "discriminator")] == [3, 3]
    text = yaml.safe_dump(config["model"])
    assert (text.count("num_classes: 3"), text.count("channels: 3"), text.count("channels: 1")) == (1, 3, 0)


def test_tables_give_features_and_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(rng.normal(size=(60, 4)), columns=list("abcd")).assign(label=["x", "y", "z"] * 20)
    table.to_csv(tmp_path / "t.csv", index=False)
    source = ["--data.init_args.source=table", f"--data.init_args.root={tmp_path / 't.csv'}"]
    arguments = resolved("-c", "evaluation/tabular", *source)["model"]["init_args"]
    network = arguments["network"]["init_args"]
    assert (arguments["num_classes"], network["num_classes"], network["in_features"]) == (3, 3, 4)

    values = table.drop(columns="label").assign(target=rng.normal(size=60))
    values.to_csv(tmp_path / "v.csv", index=False)
    source = ["--data.init_args.source=table_file", f"--data.init_args.path={tmp_path / 'v.csv'}"]
    assert resolved("-c", "kfold/regression", *source)["model"]["init_args"]["in_features"] == 4


def test_a_number_that_was_given_stands_or_is_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"model\.init_args\.num_classes is 10, but the data of data\.init_args .* 3 cl"
    ):
        resolved("-c", "ddp/one_process", *flags_of(photos), "--model.init_args.num_classes", "10")
    right = [f"--model.init_args.{key}num_classes=3" for key in ("", "network.init_args.")]
    assert resolved("-c", "ddp/one_process", *flags_of(photos), *right)["model"]["init_args"]["num_classes"] == 3
    own = tmp_path / "own.yaml"
    own.write_text("model: {init_args: {network: {init_args: {channels: 1}}}}\n")
    with pytest.raises(UserError, match=r"network\.init_args\.channels is 1, but the data .* 3 channels"):
        resolved("-c", "ddp/one_process", "-c", own, *flags_of(photos))


def test_a_packaged_config_stays_as_it_is() -> None:
    assert resolved("-c", "ddp/mlp")["model"]["init_args"]["num_classes"] == 10


def test_only_the_data_are_named_from_fit_to_prediction(forked: Command, photos: Path, runs: Path) -> None:
    done = forked("fit", "-c", "ddp/one_process", *flags_of(photos), "--trainer.max_epochs=2", "--then", "test,predict")
    assert "model.init_args.num_classes is set to 3, as in the data (it was 10 in the config)" in done.stdout
    run = Run.load("ddp/one_process", runs)
    assert yaml.safe_load(run.config_path.read_text())["model"]["init_args"]["network"]["init_args"]["channels"] == 3
    weights = torch.load(run.checkpoint("best"), weights_only=True)["state_dict"]
    assert len(weights["network.head.weight"]) == 3
    assert pd.read_parquet(run.path / "predictions")["probability"].map(len).unique().tolist() == [3]
    forked("test", "--run", run.path)
