"""Cross-validation of a user's table: which columns are features, how they are standardized, and new rows."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import plcourse
from kfold_configs import kfold_config
from plcourse import Run
from plcourse.errors import UserError
from plcourse.kfold.data import TableData
from plcourse.kfold.table import Columns, Table
from plcourse.training.checkpoint import load

DRAW = np.random.default_rng(0)


def houses(n: int) -> pd.DataFrame:
    size, rooms = DRAW.normal(80, 20, n), DRAW.integers(1, 6, n)
    return pd.DataFrame(
        {
            "Unnamed: 0": range(n),
            "house": [f"{i:05d}" for i in range(n)],
            "size": size,
            "rooms": rooms,
            "lift": np.where(DRAW.random(n) < 0.5, "True", "False"),
            "temp": 14.62,
            "price": 3 * size + 10 * rooms + DRAW.normal(size=n),
        }
    )


def config(path: Path) -> dict[str, Any]:
    columns = {"source": "table_file", "path": str(path), "target": "price", "id_column": "house"}
    model = {"class_path": "TableRegressor", "init_args": {"in_features": 4, "hidden": [8]}}
    data = {"class_path": "TableData", "init_args": columns}
    return kfold_config(model=model, data=data, trainer__log_every_n_steps=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("houses")
    frame = houses(60)
    frame.loc[7, "temp"] = 20.0  # constant in the training rows of the fold that holds this row out
    frame.to_csv(folder / "houses.csv", index=False)
    run = plcourse.run("fit", config(folder / "houses.csv"), then=["validate", "test"], runs_root=folder / "runs")
    (folder / "houses.csv").unlink()
    return run


@pytest.mark.medium
def test_a_column_that_is_constant_in_a_fold_gives_sensible_predictions(run: Run) -> None:
    rows: Any = pd.read_parquet(run.path / "predictions" / "out_of_fold.parquet").set_index("id")
    assert len(rows) == 48
    assert rows["prediction"].abs().max() < 2000  # of prices about 300
    scales = [load(run.path / "folds" / k / "checkpoints" / "best.ckpt")["TableData"] for k in "012"]
    assert scales[0]["features"] == ["size", "rooms", "lift", "temp"]
    assert min(scale["std"][3] for scale in scales) > 0.1


@pytest.mark.medium
def test_new_rows_are_predicted_by_the_mean_of_the_folds_each_with_its_own_scale(run: Run, tmp_path: Path) -> None:
    new = houses(9).drop(columns=["price", "Unnamed: 0"]).sample(frac=1, random_state=0)
    new[["temp", "lift", "house", "size", "rooms"]].to_csv(tmp_path / "new.csv", index=False)
    files = run.predict({"data.init_args.predict_path": str(tmp_path / "new.csv")})
    found: Any = pd.concat(map(pd.read_parquet, files)).set_index("id")["prediction"]
    # the run has no predictions of its own, so that `predictions/` shows these
    assert [pd.read_parquet(file)["id"].tolist() for file in run.predictions] == [found.index.tolist()]
    assert sorted(found.index) == sorted(new["house"])
    expected = np.zeros(9)
    for k in "012":
        checkpoint = load(run.path / "folds" / k / "checkpoints" / "best.ckpt")
        scale = checkpoint["TableData"]
        weights = {key: value.double() for key, value in checkpoint["state_dict"].items()}
        features = new[["size", "rooms"]].assign(lift=new["lift"] == "True", temp=new["temp"]).to_numpy(float)
        hidden = torch.from_numpy((features - scale["mean"]) / scale["std"]) @ weights["network.0.weight"].T
        hidden = (hidden + weights["network.0.bias"]).relu() @ weights["network.3.weight"].T + weights["network.3.bias"]
        expected += (scale["target_mean"] + scale["target_std"] * hidden.squeeze(1).numpy()) / 3
    assert found[new["house"]].to_numpy() == pytest.approx(expected, rel=1e-5)


@pytest.mark.medium
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": ["80", "tall"]}, r"new.csv, row 1: column 'size' is 'tall', not a finite number"),
        ({"rooms": ["", "3"]}, r"new.csv, row 0: column 'rooms' is missing"),
        ({"house": ["a", "a"]}, r"new.csv, row 1: column 'house' is 'a' again"),
        ({"temp": None}, r"new.csv has no column 'temp'"),
    ],
)
def test_new_rows_that_cannot_be_predicted_are_named(
    run: Run, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    new = houses(2).astype(str)
    for column, values in change.items():
        new = new.drop(columns=column) if values is None else new.assign(**{column: values})
    new.to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(UserError, match=message):
        run.predict({"data.init_args.predict_path": str(tmp_path / "new.csv")})


def test_columns_that_only_count_the_rows_are_left_out_unless_they_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = houses(20).drop(columns="house").assign(day=range(1, 21), Id=DRAW.permutation(50)[:20])
    frame.to_csv(tmp_path / "t.csv", index=False)
    table = Table.read("table_file", str(tmp_path / "t.csv"), Columns("price"))
    assert table.names == ["size", "rooms", "lift", "temp"]
    said = capsys.readouterr().out
    assert "column 'Unnamed: 0' is a saved index and is left out" in said
    assert "column 'day' only counts the rows and is left out" in said
    assert "column 'Id' only names the rows and is left out" in said
    table = Table.read("table_file", str(tmp_path / "t.csv"), Columns("price", features=["day", "size"]))
    assert table.features[:, 0].tolist() == list(range(1, 21))


def test_features_are_standardized_in_double_precision(tmp_path: Path) -> None:
    seconds = 1_700_000_000 + DRAW.permutation(40)
    pd.DataFrame({"seconds": seconds, "huge": 1e200 * DRAW.random(40), "price": range(40)}).to_parquet(
        tmp_path / "t.parquet"
    )
    data = TableData("table_file", str(tmp_path / "t.parquet"), "price", test_size=0)
    features = data._rows("train").features.numpy()
    expected = (seconds - seconds.mean()) / seconds.std()
    assert features[:, 0] == pytest.approx(expected, rel=1e-6)
    assert features.std(axis=0) == pytest.approx([1, 1], rel=1e-5)
